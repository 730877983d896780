//! Two clusters in one process: real sockets, real stores, real CAs in directories of their own.

mod fixture;

mod hostile;
mod join;
mod secrets;
mod stream;
