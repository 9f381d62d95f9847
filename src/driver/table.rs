//! The sockets of a driver, by slot.

use std::mem;

use super::Sock;

/// Slots with a generation each: a slot that is used again answers to a new [`Sock`] only.
pub struct Table<T> {
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
    /// Events that were about sockets which are no more, since somebody asked.
    stale_events: u64,
}

struct Entry<T> {
    generation: u32,
    socket: Option<T>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            free: Vec::new(),
            stale_events: 0,
        }
    }
}

impl<T> Table<T> {
    /// Puts a socket into a free slot, the one that was freed last.
    pub fn insert(&mut self, socket: T) -> Sock {
        if let Some(slot) = self.free.pop() {
            let entry = &mut self.entries[slot as usize];
            assert!(entry.socket.is_none(), "slot {slot} is free");
            entry.socket = Some(socket);
            return Sock {
                slot,
                generation: entry.generation,
            };
        }
        let slot = u32::try_from(self.entries.len()).expect("descriptors are 31-bit numbers");
        self.entries.push(Entry {
            generation: 0,
            socket: Some(socket),
        });
        Sock {
            slot,
            generation: 0,
        }
    }

    /// The socket; panics for one that is closed.
    pub fn get(&mut self, sock: Sock) -> &mut T {
        let entry = &mut self.entries[sock.slot as usize];
        assert_eq!(entry.generation, sock.generation, "{sock:?} is closed");
        entry.socket.as_mut().expect("a current generation is open")
    }

    /// The socket, to be looked at; panics for one that is closed.
    #[cfg(any(test, fuzzing))]
    pub(super) fn peek(&self, sock: Sock) -> &T {
        let entry = &self.entries[sock.slot as usize];
        assert_eq!(entry.generation, sock.generation, "{sock:?} is closed");
        entry.socket.as_ref().expect("a current generation is open")
    }

    /// The socket that an event is about. `None`, and counted, if it is closed: its descriptor is registered until
    /// it is closed as well, and by then its slot may be another one's.
    pub(super) fn of_event(&mut self, token: u64) -> Option<(Sock, &mut T)> {
        let sock = Sock::of_token(token);
        if !self.is_open(sock) {
            self.stale_events += 1;
            return None;
        }
        Some((sock, self.get(sock)))
    }

    /// How many events were about sockets that are closed, since the last time that this was asked.
    pub(super) fn take_stale_events(&mut self) -> u64 {
        mem::take(&mut self.stale_events)
    }

    /// The open socket in a slot, with its name.
    pub(super) fn at(&mut self, slot: u32) -> (Sock, &mut T) {
        let entry = &mut self.entries[slot as usize];
        let sock = Sock {
            slot,
            generation: entry.generation,
        };
        let socket = entry.socket.as_mut();
        (sock, socket.expect("a slot with ops in flight is open"))
    }

    /// Whether the slot holds a socket of this generation.
    pub(super) fn is_open(&self, sock: Sock) -> bool {
        self.entries
            .get(sock.slot as usize)
            .is_some_and(|e| e.generation == sock.generation && e.socket.is_some())
    }

    /// The sockets that are open.
    pub(super) fn into_open(self) -> impl Iterator<Item = T> {
        self.entries.into_iter().filter_map(|entry| entry.socket)
    }

    /// Takes the socket out; panics for one that is closed. Its slot is free.
    pub fn remove(&mut self, sock: Sock) -> T {
        let entry = &mut self.entries[sock.slot as usize];
        assert_eq!(entry.generation, sock.generation, "{sock:?} is closed");
        let socket = entry.socket.take().expect("a current generation is open");
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(sock.slot);
        socket
    }
}
