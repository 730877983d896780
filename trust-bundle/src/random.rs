//! Randomness from the operating system; pure code gets it as an argument.

use ring::rand::{SecureRandom as _, SystemRandom};

pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).expect("the operating system has randomness");
    bytes
}
