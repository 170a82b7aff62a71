//! What OpenSK's firmware runs on here: packets over a socket instead of USB, and hands that standard input moves.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use opensk::api::clock::Clock;
use opensk::api::connection::{HidConnection, RecvStatus, UsbEndpoint};
use opensk::api::crypto::software_crypto::SoftwareCrypto;
use opensk::api::customization::{CustomizationImpl, DEFAULT_CUSTOMIZATION};
use opensk::api::fingerprint::{
    Ctap2EnrollFeedback, Fingerprint, FingerprintCheckError, FingerprintKind,
};
use opensk::api::key_store;
use opensk::api::persist::{Persist, PersistIter};
use opensk::api::rng::rand_core::SeedableRng;
use opensk::api::user_presence::{UserPresence, UserPresenceError, UserPresenceWaitResult};
use opensk::ctap::status_code::{Ctap2StatusCode, CtapResult};
use opensk::env::Env;
use opensk::env::test::TestRng;

/// How often hands and socket are looked at while somebody is waited for.
const LOOK: Duration = Duration::from_millis(5);
const PACKET: usize = 64;

/// What the person does with the key.
#[derive(Clone, Copy, PartialEq)]
pub enum Hand {
    /// Keeps off.
    Away,
    /// Touches whenever the key asks.
    Ready,
    /// Touches once.
    Once,
    /// Refuses.
    Declines,
}

/// All that outlives a power cycle, and what the two threads share.
pub struct World {
    pub hand: Hand,
    /// Whether the finger on the sensor is the enrolled one.
    pub finger: bool,
    pub plugged: bool,
    pub stream: Option<UnixStream>,
    pub skipped_ms: u64,
    store: BTreeMap<usize, Vec<u8>>,
    asked: bool,
}

pub struct Shared {
    pub world: Mutex<World>,
    pub changed: Condvar,
}

impl Shared {
    pub fn new() -> Arc<Self> {
        let world = World {
            hand: Hand::Ready,
            finger: true,
            plugged: true,
            stream: None,
            skipped_ms: 0,
            store: BTreeMap::new(),
            asked: false,
        };
        Arc::new(Self {
            world: Mutex::new(world),
            changed: Condvar::new(),
        })
    }

    pub fn lock(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("no thread panics with it")
    }
}

/// One line for whoever drives this program.
pub fn tell(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// The environment of one power cycle.
pub struct Board {
    shared: Arc<Shared>,
    rng: TestRng,
    started: Instant,
    partial: Vec<u8>,
    customization: CustomizationImpl,
}

#[derive(Default)]
pub struct Timer(u64);

impl Board {
    pub fn new(shared: Arc<Shared>) -> Self {
        let mut seed = [0; 32];
        File::open("/dev/urandom")
            .and_then(|mut file| file.read_exact(&mut seed))
            .expect("randomness");
        Board {
            shared,
            rng: TestRng::from_seed(seed),
            started: Instant::now(),
            partial: Vec::new(),
            customization: DEFAULT_CUSTOMIZATION,
        }
    }

    /// Enrols the finger of this key's owner.
    pub fn enrol_finger(&mut self) -> CtapResult<()> {
        self.store_template_id(vec![1])
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64 + self.shared.lock().skipped_ms
    }

    /// Reads one packet, or nothing within the time; an error where the other side is gone.
    pub fn read_packet(
        &mut self,
        timeout: Option<Duration>,
    ) -> std::io::Result<Option<[u8; PACKET]>> {
        let Some(mut stream) = self
            .shared
            .lock()
            .stream
            .as_ref()
            .and_then(|s| s.try_clone().ok())
        else {
            return Err(ErrorKind::NotConnected.into());
        };
        stream.set_read_timeout(timeout)?;
        let mut buffer = [0; PACKET];
        while self.partial.len() < PACKET {
            match stream.read(&mut buffer[..PACKET - self.partial.len()]) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.partial.extend_from_slice(&buffer[..count]),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
        let packet = self.partial.as_slice().try_into().expect("64 bytes");
        self.partial.clear();
        Ok(Some(packet))
    }

    pub fn forget_partial(&mut self) {
        self.partial.clear();
    }

    /// Says once that somebody is waited for, so that a test needs no pause of its own.
    fn say_asked(&mut self) {
        let first = !std::mem::replace(&mut self.shared.lock().asked, true);
        if first {
            tell("asked");
        }
    }
}

impl HidConnection for Board {
    fn send(&mut self, buf: &[u8; PACKET], _: UsbEndpoint) -> CtapResult<()> {
        let stream = self
            .shared
            .lock()
            .stream
            .as_ref()
            .and_then(|s| s.try_clone().ok());
        match stream.map(|mut stream| stream.write_all(buf)) {
            Some(Ok(())) => Ok(()),
            _ => Err(Ctap2StatusCode::CTAP2_ERR_VENDOR_HARDWARE_FAILURE),
        }
    }

    fn recv(&mut self, buf: &mut [u8; PACKET], timeout_ms: usize) -> CtapResult<RecvStatus> {
        match self.read_packet(Some(Duration::from_millis(timeout_ms as u64))) {
            Ok(Some(packet)) => {
                *buf = packet;
                Ok(RecvStatus::Received(UsbEndpoint::MainHid))
            }
            Ok(None) => Ok(RecvStatus::Timeout),
            Err(_) => Err(Ctap2StatusCode::CTAP2_ERR_VENDOR_HARDWARE_FAILURE),
        }
    }
}

impl UserPresence for Board {
    fn check_init(&mut self) {
        self.shared.lock().asked = false;
    }

    fn wait_with_timeout(
        &mut self,
        packet: &mut [u8; PACKET],
        timeout_ms: usize,
    ) -> UserPresenceWaitResult {
        self.say_asked();
        let until = Instant::now() + Duration::from_millis(timeout_ms as u64);
        while Instant::now() < until {
            let mut world = self.shared.lock();
            match world.hand {
                Hand::Ready => return Ok((Ok(()), RecvStatus::Timeout)),
                Hand::Declines => {
                    return Ok((Err(UserPresenceError::Declined), RecvStatus::Timeout));
                }
                Hand::Once => {
                    world.hand = Hand::Away;
                    return Ok((Ok(()), RecvStatus::Timeout));
                }
                Hand::Away => drop(world),
            }
            if let RecvStatus::Received(endpoint) = self.recv(packet, LOOK.as_millis() as usize)? {
                return Ok((
                    Err(UserPresenceError::Timeout),
                    RecvStatus::Received(endpoint),
                ));
            }
        }
        Ok((Err(UserPresenceError::Timeout), RecvStatus::Timeout))
    }

    fn check_complete(&mut self) {}
}

impl Fingerprint for Board {
    fn prepare_enrollment(&mut self) -> CtapResult<()> {
        Err(Ctap2StatusCode::CTAP2_ERR_UNSUPPORTED_OPTION)
    }

    fn capture_sample(
        &mut self,
        _: Option<usize>,
    ) -> CtapResult<(Ctap2EnrollFeedback, usize, Option<Vec<u8>>)> {
        Err(Ctap2StatusCode::CTAP2_ERR_UNSUPPORTED_OPTION)
    }

    fn cancel_enrollment(&mut self) -> CtapResult<()> {
        Ok(())
    }

    fn remove_enrollment(&mut self, _: &[u8]) -> CtapResult<()> {
        Ok(())
    }

    fn check_fingerprint_init(&mut self) -> CtapResult<()> {
        self.shared.lock().asked = false;
        Ok(())
    }

    fn check_fingerprint(&mut self, timeout_ms: usize) -> Result<(), FingerprintCheckError> {
        self.say_asked();
        let until = Instant::now() + Duration::from_millis(timeout_ms as u64);
        while Instant::now() < until {
            let mut world = self.shared.lock();
            if world.hand != Hand::Away {
                if world.hand == Hand::Once {
                    world.hand = Hand::Away;
                }
                return if world.finger {
                    Ok(())
                } else {
                    Err(FingerprintCheckError::NoMatch)
                };
            }
            drop(world);
            std::thread::sleep(LOOK);
        }
        Err(FingerprintCheckError::Timeout)
    }

    fn check_fingerprint_complete(&mut self) -> CtapResult<()> {
        Ok(())
    }

    fn fingerprint_kind(&self) -> FingerprintKind {
        FingerprintKind::Touch
    }

    fn max_capture_samples_required_for_enroll(&self) -> usize {
        1
    }
}

impl Clock for Board {
    type Timer = Timer;

    fn make_timer(&mut self, milliseconds: usize) -> Timer {
        Timer(self.now_ms() + milliseconds as u64)
    }

    fn is_elapsed(&mut self, timer: &Timer) -> bool {
        self.now_ms() >= timer.0
    }
}

impl Persist for Board {
    fn find(&self, key: usize) -> CtapResult<Option<Vec<u8>>> {
        Ok(self.shared.lock().store.get(&key).cloned())
    }

    fn insert(&mut self, key: usize, value: &[u8]) -> CtapResult<()> {
        self.shared.lock().store.insert(key, value.to_vec());
        Ok(())
    }

    fn remove(&mut self, key: usize) -> CtapResult<()> {
        self.shared.lock().store.remove(&key);
        Ok(())
    }

    fn iter(&self) -> CtapResult<PersistIter<'_>> {
        let keys: Vec<usize> = self.shared.lock().store.keys().copied().collect();
        Ok(Box::new(keys.into_iter().map(Ok)))
    }
}

impl key_store::Helper for Board {}

impl Env for Board {
    type Rng = TestRng;
    type UserPresence = Self;
    type Persist = Self;
    type KeyStore = Self;
    type Write = String;
    type Customization = CustomizationImpl;
    type HidConnection = Self;
    type Clock = Self;
    type Crypto = SoftwareCrypto;
    type Fingerprint = Self;

    fn rng(&mut self) -> &mut TestRng {
        &mut self.rng
    }

    fn user_presence(&mut self) -> &mut Self {
        self
    }

    fn persist(&mut self) -> &mut Self {
        self
    }

    fn key_store(&mut self) -> &mut Self {
        self
    }

    fn clock(&mut self) -> &mut Self {
        self
    }

    fn fingerprint(&mut self) -> &mut Self {
        self
    }

    fn write(&mut self) -> String {
        String::new()
    }

    fn customization(&self) -> &CustomizationImpl {
        &self.customization
    }

    fn hid_connection(&mut self) -> &mut Self {
        self
    }

    fn boots_after_soft_reset(&self) -> bool {
        false
    }
}
