//! The decoders as a fuzzer sees them: bytes in, no I/O. Not for use elsewhere.

use unitflow_change::fault::Fault;

use crate::bytes::{Broken, Bytes};
use crate::connect::Flavor;
use crate::decode::{Decoder, Step};
use crate::event::Raw;
use crate::json;
use crate::table::Disguises;
use crate::value;

/// The events of a binlog file without its magic number, one after the other; the last may be cut.
pub fn split(mut log: &[u8]) -> Vec<&[u8]> {
    let mut events = Vec::new();
    while let Some(size) = log.get(9..13).and_then(|size| size.first_chunk()) {
        let size = u32::from_le_bytes(*size) as usize;
        let (event, rest) = log.split_at(size.clamp(13, log.len()));
        events.push(event);
        log = rest;
    }
    events
}

/// Decodes events, and returns how many rows and statements they held.
pub fn events<'a>(
    flavor: Flavor,
    events: impl Iterator<Item = &'a [u8]>,
    checksums: bool,
) -> Result<u64, Fault> {
    let mut decoder = Decoder::new(flavor, "A.shop", unitflow_change::Form::Plain);
    let mut count = 0;
    for event in events {
        let raw = Raw::parse(event, checksums).map_err(Broken::into_fault)?;
        match decoder.feed(&raw)? {
            Step::End | Step::Prepared | Step::OnePhase | Step::Completed(_) => decoder.ended(),
            Step::Ddl => {
                count += 1;
                if decoder.is_ending() {
                    decoder.ended();
                }
            }
            Step::Rows => {
                while decoder.next_row(raw.header.kind, raw.body)? {
                    let row = decoder.row().map(|row| (row.key.len(), row.value.len()));
                    debug_assert!(row.is_some());
                    count += 1;
                }
            }
            Step::Veiled => decoder.unveil(Disguises::new())?,
            Step::Nothing | Step::Heartbeat => {}
        }
    }
    Ok(count)
}

/// The text of a document in MySQL's binary JSON.
pub fn document(bytes: &[u8]) -> Result<Vec<u8>, Fault> {
    let mut out = Vec::new();
    json::write_document(&mut out, bytes).map_err(Broken::into_fault)?;
    Ok(out)
}

/// The text of a DECIMAL; `None` where there is no such shape.
pub fn decimal(precision: u8, scale: u8, bytes: &[u8]) -> Option<Result<Vec<u8>, Fault>> {
    let shape = value::Decimal::new(precision, scale)?;
    let mut out = Vec::new();
    Some(shape.write(&mut out, &mut Bytes::new(bytes)).map(|()| out).map_err(Broken::into_fault))
}
