//! Writes copied rows where, and only where, nothing newer stands.
//!
//! | file | what it does |
//! |---|---|
//! | [`chunk`] | a lane's part of a chunk: judge, write, judge again with the rows locked, commit |
//! | [`index`] | which rows were written here lately, by whom |
//! | [`identity`] | what makes two keys one row |
//! | [`own_log`] | reads this unit's own captured log up to now |
//! | [`known`] | from which record of that log on it proves anything |
//! | [`passed`] | what this unit's ledger passed over and a copy has still to bring |
//! | [`filling`] | tables that are being filled, and rows that could not be settled yet |
//!
//! The guarantee: a row is written or removed only if this unit has applied all that the source had
//! applied when it read the row, and no write to it, this unit's own or a third's, lies beyond that.
//! What is in doubt is noted in `unitflow.unsettled` in the same transaction, and read again.
//!
//! Which writes lie beyond is told by this unit's own captured log, read up to a marker that was put
//! into it while the rows were locked. So no clock is asked, and no before-image believed.

pub mod chunk;
pub mod filling;
pub mod identity;
pub mod index;
pub mod known;
pub mod own_log;
pub mod passed;
