//! Scenarios as data: documents and what peers say go in, snapshot and conditions come out.

mod imports;
mod ownership;
mod properties;
mod routes;
mod scale;
mod services;
mod world;
