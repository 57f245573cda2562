//! Whether two units hold the same data, and where they do not.
//!
//! [`compare`] walks one table on two servers at once and names the keys that are missing, extra or
//! different at the target. Both may take writes meanwhile: what it finds is what differed at the
//! moment of reading, so who acts on it looks again first ([`Compare::again`]).
//!
//! | file | what happens there |
//! |---|---|
//! | [`pair`] | a table of one unit and its counterpart: which columns are compared, and how |
//! | `canonical` | values of two types, so that equal ones have the same bytes |
//! | [`compare`] | the walk |

pub mod compare;
pub mod pair;

mod canonical;

pub use compare::{Compare, Difference, Finding, Part};
pub use pair::Pair;
