//! The rules of notes on X.509-SVIDs (X*), verification (V*) and bundles in use (B2, B14) as tests.

mod handshakes;
mod store;
mod vectors;
