//! The line discipline of a terminal in canonical mode: it echoes input, edits the current line, and handles the end-of-file and interrupt
//! characters.

const INTERRUPT: u8 = 0x03;
const END_OF_FILE: u8 = 0x04;
const BACKSPACE: [u8; 2] = [0x08, 0x7f];

/// Most bytes of a line. Linux drops further input too.
const MAX_LINE: usize = 4_095;

/// The current line, which the program has not received yet.
#[derive(Debug, Default)]
pub(crate) struct LineDiscipline(Vec<u8>);

/// The effects of some input.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Effects {
    /// Output for the client's screen.
    pub(crate) echo: Vec<u8>,
    /// Input for the program.
    pub(crate) line: Vec<u8>,
    /// The input has ended.
    pub(crate) eof: bool,
    /// The interrupt character was typed.
    pub(crate) interrupt: bool,
}

impl LineDiscipline {
    pub(crate) fn input(&mut self, keys: &[u8]) -> Effects {
        let mut effects = Effects::default();
        for key in keys {
            match *key {
                INTERRUPT => {
                    effects.echo.extend(b"^C\r\n");
                    effects.interrupt = true;
                    return effects;
                }
                END_OF_FILE if self.0.is_empty() => {
                    effects.eof = true;
                    return effects;
                }
                END_OF_FILE => effects.line.append(&mut self.0),
                b'\r' | b'\n' => {
                    self.0.push(b'\n');
                    effects.echo.extend(b"\r\n");
                    effects.line.append(&mut self.0);
                }
                key if BACKSPACE.contains(&key) => {
                    if !self.0.is_empty() {
                        effects.echo.extend(b"\x08 \x08");
                    }
                    // removes all bytes of one UTF-8 character
                    while self.0.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
                }
                key if self.0.len() < MAX_LINE => {
                    self.0.push(key);
                    effects.echo.push(key);
                }
                _ => {}
            }
        }
        effects
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_go_to_the_program_when_they_are_whole() {
        let mut terminal = LineDiscipline::default();
        let half = terminal.input(b"hx\x7f\xc3\xa4\x7fi");
        assert_eq!((half.line.as_slice(), half.echo.as_slice()), (&b""[..], &b"hx\x08 \x08\xc3\xa4\x08 \x08i"[..]));
        let whole = terminal.input(b"\rnext");
        assert_eq!((whole.line.as_slice(), whole.echo.as_slice()), (&b"hi\n"[..], &b"\r\nnext"[..]));
        let ended = terminal.input(b"\x04");
        assert_eq!((ended.line.as_slice(), ended.eof), (&b"next"[..], false), "the line so far");
        assert!(terminal.input(b"\x04").eof);
        assert!(terminal.input(b"\x03").interrupt);
    }
}
