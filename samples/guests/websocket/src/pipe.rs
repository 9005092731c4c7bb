//! What has come and what is to be sent, in memory: tungstenite reads and writes at once, while a guest waits for its sockets.

use std::{
    cell::RefCell,
    collections::VecDeque,
    io::{self, Read, Write},
    rc::Rc,
};

/// Both directions of a connection.
#[derive(Clone, Default)]
pub struct Pipe(Rc<RefCell<Directions>>);

#[derive(Default)]
struct Directions {
    come: VecDeque<u8>,
    going: Vec<u8>,
}

impl Pipe {
    /// Adds what has come.
    pub fn put(&self, bytes: &[u8]) {
        self.0.borrow_mut().come.extend(bytes);
    }

    /// Takes what is to be sent.
    pub fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.borrow_mut().going)
    }

    /// Whether something is to be sent.
    pub fn has_output(&self) -> bool {
        !self.0.borrow().going.is_empty()
    }

    /// Adds something to be sent.
    pub fn say(&self, bytes: &[u8]) {
        self.0.borrow_mut().going.extend(bytes);
    }
}

impl Read for Pipe {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        match self.0.borrow_mut().come.read(to)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            read => Ok(read),
        }
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.say(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
