//! A command as it stands in the replication stream: an array of texts.
//!
//! Source of the format: the Redis serialization protocol, version 2.

use tokio::io::AsyncRead;
use unitflow_change::fault::{Code, Fault};

use crate::input::Input;

/// The longest text that any server takes as an argument, in bytes.
const ARGUMENT_BYTES_MAX: usize = 512 << 20;
/// More arguments no server takes.
const ARGUMENTS_MAX: usize = 1 << 20;
/// The longest line that announces a length.
const HEAD_BYTES_MAX: usize = 32;

/// A command: its name and its arguments. Reads into the same memory again and again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Command {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Command {
    /// A command of these words.
    pub fn of(words: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Self {
        let mut command = Self::default();
        words.into_iter().for_each(|word| command.push(word));
        command
    }

    /// Adds an argument.
    pub fn push(&mut self, word: impl AsRef<[u8]>) {
        self.bytes.extend_from_slice(word.as_ref());
        self.ends.push(self.bytes.len());
    }

    /// How many words it has, its name among them.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether it has not even a name.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// How many bytes its words have together.
    #[must_use]
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// A word; the name is the first one. Empty where there is none.
    #[must_use]
    pub fn word(&self, place: usize) -> &[u8] {
        let Some(&end) = self.ends.get(place) else { return &[] };
        let start = place.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start..end]
    }

    /// All words.
    pub fn words(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len()).map(|place| self.word(place))
    }

    /// Whether it has this name, given in upper case.
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        self.word(0).eq_ignore_ascii_case(name.as_bytes())
    }

    /// Writes it as a client sends it.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut number = itoa::Buffer::new();
        let mut head = |out: &mut Vec<u8>, kind: u8, count: usize| {
            out.push(kind);
            out.extend_from_slice(number.format(count).as_bytes());
            out.extend_from_slice(b"\r\n");
        };
        head(out, b'*', self.len());
        for word in self.words() {
            head(out, b'$', word.len());
            out.extend_from_slice(word);
            out.extend_from_slice(b"\r\n");
        }
    }

    /// Reads the next command of a stream in place of this one. A read that is given up goes on where it stood.
    ///
    /// # Errors
    /// Those of the connection; [`Code::StreamCorrupt`] for what is no command.
    pub(crate) async fn read<R: AsyncRead + Unpin>(
        &mut self,
        input: &mut Input<R>,
        awaited: &mut Awaited,
    ) -> Result<(), Fault> {
        while !self.take(input, awaited)? {
            input.more(1).await?;
        }
        Ok(())
    }

    /// Takes what is here already; whether the command is whole.
    fn take<R: AsyncRead + Unpin>(
        &mut self,
        input: &mut Input<R>,
        awaited: &mut Awaited,
    ) -> Result<bool, Fault> {
        loop {
            *awaited = match *awaited {
                Awaited::Command => {
                    let Some(words) = head(input, b'*', ARGUMENTS_MAX)? else { return Ok(false) };
                    self.bytes.clear();
                    self.ends.clear();
                    match words {
                        0 => return Err(corrupt("a command without a name")),
                        words => Awaited::Word { words },
                    }
                }
                Awaited::Word { words: 0 } => {
                    *awaited = Awaited::Command;
                    return Ok(true);
                }
                Awaited::Word { words } => {
                    let Some(bytes) = head(input, b'$', ARGUMENT_BYTES_MAX)? else {
                        return Ok(false);
                    };
                    Awaited::Bytes { words, bytes }
                }
                Awaited::Bytes { words, bytes: 0 } => {
                    if input.ready().len() < 2 {
                        return Ok(false);
                    }
                    if input.take(2) != b"\r\n" {
                        return Err(corrupt("an argument is longer than it says"));
                    }
                    self.ends.push(self.bytes.len());
                    Awaited::Word { words: words - 1 }
                }
                Awaited::Bytes { words, bytes } => {
                    let some = bytes.min(input.ready().len());
                    if some == 0 {
                        return Ok(false);
                    }
                    self.bytes.extend_from_slice(input.take(some));
                    Awaited::Bytes { words, bytes: bytes - some }
                }
            };
        }
    }
}

/// What comes next of a stream of commands.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Awaited {
    /// A command, from its begin.
    #[default]
    Command,
    /// So many of its words.
    Word { words: usize },
    /// So many bytes of the first of these words, and its end.
    Bytes { words: usize, bytes: usize },
}

/// A line that announces how many of what follow, if it is here.
fn head<R: AsyncRead + Unpin>(
    input: &mut Input<R>,
    kind: u8,
    most: usize,
) -> Result<Option<usize>, Fault> {
    let ready = input.ready();
    let seen = ready.len().min(HEAD_BYTES_MAX);
    let Some(end) = ready[..seen].iter().position(|byte| *byte == b'\n') else {
        return match seen < HEAD_BYTES_MAX {
            true => Ok(None),
            false => Err(corrupt("a length has no end")),
        };
    };
    let line = input.take(end + 1);
    let count = line.strip_suffix(b"\r\n").and_then(|line| line.strip_prefix(&[kind]));
    let count = count.and_then(|count| std::str::from_utf8(count).ok()?.parse().ok());
    let count = count.filter(|count| *count <= most);
    count
        .map(Some)
        .ok_or_else(|| corrupt("neither a command nor an argument stands where one belongs"))
}

fn corrupt(what: &str) -> Fault {
    Fault::fatal(Code::StreamCorrupt, format!("the stream can't be read: {what}"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn block_on<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(work)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again_and_counted(
            commands in prop::collection::vec(
                prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..6), 1..8),
        ) {
            let commands: Vec<Command> = commands.iter().map(Command::of).collect();
            let mut bytes = Vec::new();
            commands.iter().for_each(|command| command.write(&mut bytes));
            block_on(async {
                let mut input = Input::new(&bytes[..], Duration::from_secs(1));
                let (mut found, mut awaited) = (Command::default(), Awaited::default());
                for command in &commands {
                    found.read(&mut input, &mut awaited).await.unwrap();
                    assert_eq!(&found, command);
                }
                assert_eq!(input.taken(), bytes.len() as u64);
                assert!(found.read(&mut input, &mut awaited).await.is_err());
            });
        }

        #[test]
        fn any_bytes_are_borne(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            block_on(async {
                let mut input = Input::new(&bytes[..], Duration::from_secs(1));
                let (mut found, mut awaited) = (Command::default(), Awaited::default());
                while found.read(&mut input, &mut awaited).await.is_ok() {}
            });
        }
    }

    #[test]
    fn words_are_found_by_their_place() {
        let command = Command::of(["set", "", "value"]);
        assert!(command.is("SET") && !command.is("SETEX"));
        assert_eq!(command.words().collect::<Vec<_>>(), [&b"set"[..], b"", b"value"]);
        assert_eq!((command.word(3), command.size()), (&b""[..], 8));
    }
}
