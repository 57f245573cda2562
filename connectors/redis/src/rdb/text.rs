//! Lengths and texts of a snapshot.

use tokio::io::AsyncRead;
use unitflow_change::fault::{Code, Fault};

use super::{ELEMENT_BYTES_MAX, Part, Piece, Snapshot, corrupt};
use crate::lzf::Unpacker;

/// How much of a long text is one piece.
const PIECE_BYTES: usize = 256 << 10;

/// What stands where a length is expected.
enum Length {
    Plain(u64),
    /// A number in place of a text: how many bytes it has.
    Number(usize),
    /// A text that is compressed.
    Packed,
}

impl<R: AsyncRead + Unpin, F: FnMut(Part) -> Result<(), Fault>> Snapshot<'_, R, F> {
    pub(super) async fn length(&mut self) -> Result<u64, Fault> {
        match self.any_length().await? {
            Length::Plain(length) => Ok(length),
            _ => Err(corrupt("a text where a length belongs")),
        }
    }

    async fn any_length(&mut self) -> Result<Length, Fault> {
        let first = self.input.byte().await?;
        Ok(match first {
            0..0x40 => Length::Plain(first.into()),
            0x40..0x80 => {
                let low = self.input.byte().await?;
                Length::Plain(u64::from(first & 0x3f) << 8 | u64::from(low))
            }
            0x80 => Length::Plain(u32::from_be_bytes(self.input.array().await?).into()),
            0x81 => Length::Plain(u64::from_be_bytes(self.input.array().await?)),
            0xc0 => Length::Number(1),
            0xc1 => Length::Number(2),
            0xc2 => Length::Number(4),
            0xc3 => Length::Packed,
            _ => return Err(corrupt("a length has an unknown encoding")),
        })
    }

    /// A text that is taken as a whole.
    pub(super) async fn text(&mut self) -> Result<Vec<u8>, Fault> {
        match self.any_length().await? {
            Length::Plain(length) => Ok(self.input.bytes(bounded(length)?).await?.to_vec()),
            Length::Number(bytes) => self.number(bytes).await,
            Length::Packed => {
                let (packed, plain) = (self.length().await?, self.length().await?);
                let (packed, plain) = (bounded(packed)?, bounded(plain)?);
                let mut text = Vec::new();
                self.unpack(packed, |bytes, _| {
                    text.extend_from_slice(bytes);
                    match text.len() > plain {
                        true => Err(corrupt("a compressed text is longer than it says")),
                        false => Ok(()),
                    }
                })
                .await?;
                if text.len() < plain {
                    return Err(corrupt("a compressed text is shorter than it says"));
                }
                Ok(text)
            }
        }
    }

    /// A text that is a value: in pieces.
    pub(super) async fn long_text(&mut self) -> Result<(), Fault> {
        match self.any_length().await? {
            Length::Number(bytes) => {
                let bytes = self.number(bytes).await?;
                let of = bytes.len() as u64;
                self.give(Piece::Text { bytes, of }).await
            }
            Length::Plain(0) => self.give(Piece::Text { bytes: Vec::new(), of: 0 }).await,
            Length::Plain(of) => {
                let mut left = of;
                while left > 0 {
                    let count = left.min(PIECE_BYTES as u64);
                    let bytes = self.input.bytes(count as usize).await?.to_vec();
                    self.give(Piece::Text { bytes, of }).await?;
                    left -= count;
                }
                Ok(())
            }
            Length::Packed => {
                let (packed, of) = (self.length().await?, self.length().await?);
                let packed = usize::try_from(packed).map_err(|_| corrupt("a text has no end"))?;
                let mut given = 0;
                self.unpack(packed, |bytes, each| {
                    given += bytes.len() as u64;
                    each(Part::Piece(Piece::Text { bytes: bytes.to_vec(), of }))
                })
                .await?;
                match given == of {
                    true => Ok(()),
                    false => Err(corrupt("a compressed text has another size than it says")),
                }
            }
        }
    }

    /// Unpacks as many bytes of the input, and hands out what they make.
    async fn unpack(
        &mut self,
        packed: usize,
        mut take: impl FnMut(&[u8], &mut F) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let mut unpacker = Unpacker::default();
        let mut left = packed;
        while left > 0 {
            self.input.need(1).await?;
            // What makes a piece at most, were it as dense as can be.
            let count = left.min(self.input.ready().len()).min(PIECE_BYTES / 64);
            take(unpacker.feed(self.input.take(count))?, self.each)?;
            left -= count;
        }
        match unpacker.is_whole() {
            true => Ok(()),
            false => Err(corrupt("a compressed text is cut")),
        }
    }

    /// A number that stands for its text.
    async fn number(&mut self, bytes: usize) -> Result<Vec<u8>, Fault> {
        let number = match *self.input.bytes(bytes).await? {
            [one] => i32::from(one.cast_signed()),
            [low, high] => i16::from_le_bytes([low, high]).into(),
            [a, b, c, d] => i32::from_le_bytes([a, b, c, d]),
            _ => return Err(corrupt("a number has an unknown size")),
        };
        Ok(itoa::Buffer::new().format(number).into())
    }
}

/// The size of what is taken as a whole.
fn bounded(length: u64) -> Result<usize, Fault> {
    usize::try_from(length).ok().filter(|length| *length <= ELEMENT_BYTES_MAX).ok_or_else(|| {
        let most = ELEMENT_BYTES_MAX >> 20;
        let what = format!("the snapshot has a key, an element or a packed value of {length} bytes");
        Fault::fatal(Code::TooLarge, what)
            .hint(format!("delete it at the source, or leave it out: the limit is {most} MiB; a plain string may be longer"))
    })
}
