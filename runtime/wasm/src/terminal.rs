//! What a kernel's terminal does between a person and a program: shows what is typed, lets the line be corrected, and knows the keys that
//! end the input or interrupt the program.

const INTERRUPT: u8 = 0x03;
const END: u8 = 0x04;
const BACKSPACE: [u8; 2] = [0x08, 0x7f];

/// Bytes of a line; what is typed beyond is not taken, as of a kernel's.
const LINE: usize = 4_095;

/// The line that is being typed.
#[derive(Debug, Default)]
pub(crate) struct Terminal(Vec<u8>);

/// What came of some keys.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Typed {
    /// For the screen.
    pub(crate) shown: Vec<u8>,
    /// For the program.
    pub(crate) line: Vec<u8>,
    /// The input has ended.
    pub(crate) end: bool,
    /// The program is to end.
    pub(crate) interrupt: bool,
}

impl Terminal {
    pub(crate) fn take(&mut self, keys: &[u8]) -> Typed {
        let mut typed = Typed::default();
        for key in keys {
            match *key {
                INTERRUPT => {
                    typed.shown.extend(b"^C\r\n");
                    typed.interrupt = true;
                    return typed;
                }
                END if self.0.is_empty() => {
                    typed.end = true;
                    return typed;
                }
                END => typed.line.append(&mut self.0),
                b'\r' | b'\n' => {
                    self.0.push(b'\n');
                    typed.shown.extend(b"\r\n");
                    typed.line.append(&mut self.0);
                }
                key if BACKSPACE.contains(&key) => {
                    if !self.0.is_empty() {
                        typed.shown.extend(b"\x08 \x08");
                    }
                    // all bytes of one character
                    while self.0.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
                }
                key if self.0.len() < LINE => {
                    self.0.push(key);
                    typed.shown.push(key);
                }
                _ => {}
            }
        }
        typed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_go_to_the_program_when_they_are_whole() {
        let mut terminal = Terminal::default();
        let half = terminal.take(b"hx\x7f\xc3\xa4\x7fi");
        assert_eq!((half.line.as_slice(), half.shown.as_slice()), (&b""[..], &b"hx\x08 \x08\xc3\xa4\x08 \x08i"[..]));
        let whole = terminal.take(b"\rnext");
        assert_eq!((whole.line.as_slice(), whole.shown.as_slice()), (&b"hi\n"[..], &b"\r\nnext"[..]));
        let ended = terminal.take(b"\x04");
        assert_eq!((ended.line.as_slice(), ended.end), (&b"next"[..], false), "what is typed so far");
        assert!(terminal.take(b"\x04").end);
        assert!(terminal.take(b"\x03").interrupt);
    }
}
