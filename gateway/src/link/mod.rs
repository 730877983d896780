//! Every link between this gateway and those of peers, and the streams on it.
mod age;
mod backoff;
mod message;
mod path;
mod plan;
