//! A security key without hardware: the CTAP2 firmware of Google's OpenSK, whose 64-byte CTAPHID packets go over a
//! Unix socket instead of USB. Standard input moves the hands of the person who holds it, one word a line, each
//! answered by `ok`:
//!
//! `ready`, `away`, `once`, `decline`: touch whenever asked, never, once, or refuse.
//! `finger`, `stranger`: whose finger is on the sensor of a key that was started with `--finger`.
//! `later`: half a minute and more has passed. `unplug`, `plug`: as a hand would; plugging in is a power cycle.
//!
//! It says `asked` when it begins to wait for a person, and ends when standard input does.

mod board;

use std::io::BufRead;
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use board::{Board, Hand, Shared, tell};
use opensk::api::connection::{HidConnection, UsbEndpoint};
use opensk::env::Env;
use opensk::{Ctap, Transport};

/// More than a key waits for a touch, and less than a token of it lives.
const LATER_MS: u64 = 31_000;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let path = PathBuf::from(arguments.next().expect("security-key SOCKET [--finger]"));
    let finger = arguments.next().is_some_and(|word| word == "--finger");
    let shared = Shared::new();
    let mut ctap = Ctap::new(Board::new(shared.clone()));
    if finger {
        ctap.env().enrol_finger().expect("an empty store");
    }
    let listener = UnixListener::bind(&path).expect("a free path");
    {
        let (shared, path) = (shared.clone(), path.clone());
        thread::spawn(move || obey(&shared, &path));
    }
    tell("ready");
    serve(&shared, listener, &mut ctap);
    loop {
        tell("ok"); // pulled out
        let mut world = shared.lock();
        while !world.plugged {
            world = shared
                .changed
                .wait(world)
                .expect("no thread panics with it");
        }
        drop(world);
        let listener = UnixListener::bind(&path).expect("a free path");
        ctap = Ctap::new(Board::new(shared.clone()));
        tell("ok");
        serve(&shared, listener, &mut ctap);
    }
}

/// Answers one connection after the other until the key is pulled out.
fn serve(shared: &Arc<Shared>, listener: UnixListener, ctap: &mut Ctap<Board>) {
    for stream in listener.incoming().flatten() {
        {
            let mut world = shared.lock();
            if !world.plugged {
                return;
            }
            world.stream = Some(stream);
        }
        ctap.env().forget_partial();
        while let Ok(packet) = ctap.env().read_packet(None) {
            let Some(packet) = packet else { continue };
            for answer in ctap.process_hid_packet(&packet, Transport::MainHid) {
                if ctap
                    .env()
                    .hid_connection()
                    .send(&answer, UsbEndpoint::MainHid)
                    .is_err()
                {
                    break;
                }
            }
            // What a U2F key takes as a touch, it must have been given before it is asked.
            if ctap.u2f_needs_user_presence() && shared.lock().hand == Hand::Ready {
                ctap.u2f_grant_user_presence();
            }
        }
        let mut world = shared.lock();
        world.stream = None;
        if !world.plugged {
            return;
        }
    }
}

/// Does what standard input says.
fn obey(shared: &Shared, path: &Path) {
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        let mut world = shared.lock();
        match line.as_str() {
            "ready" => world.hand = Hand::Ready,
            "away" => world.hand = Hand::Away,
            "once" => world.hand = Hand::Once,
            "decline" => world.hand = Hand::Declines,
            "finger" => world.finger = true,
            "stranger" => world.finger = false,
            "later" => world.skipped_ms += LATER_MS,
            "unplug" => {
                world.plugged = false;
                if let Some(stream) = &world.stream {
                    let _ = stream.shutdown(Shutdown::Both);
                }
                let _ = UnixStream::connect(path);
                let _ = std::fs::remove_file(path);
                continue; // answered when nothing is served any more
            }
            "plug" => {
                world.plugged = true;
                shared.changed.notify_all();
                continue; // answered when it listens
            }
            _ => {
                tell("unknown");
                continue;
            }
        }
        drop(world);
        tell("ok");
    }
    let _ = std::fs::remove_file(path);
    std::process::exit(0);
}
