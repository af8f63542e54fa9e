//! One HTTP GET, by hand: enough for `/metrics`, `/healthz` and `/readyz`.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::wait::DEADLINE;

/// An answer over HTTP.
#[derive(Debug)]
pub struct HttpResponse {
    /// The status code.
    pub status: u16,
    /// Status line and headers, as they came.
    pub head: String,
    /// The body.
    pub body: String,
}

/// Gets `path` from `address` (`HOST:PORT`).
///
/// # Panics
/// If there is no answer, or none that is HTTP.
#[must_use]
pub fn http_get(address: &str, path: &str) -> HttpResponse {
    let mut stream = TcpStream::connect(address).expect("the HTTP listener is there");
    stream
        .set_read_timeout(Some(DEADLINE))
        .expect("a deadline can be set");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .expect("the request can be sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("the answer ends");
    let answer = String::from_utf8(answer).expect("the answer is text");
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .expect("the answer has a head");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    HttpResponse {
        status: status.expect("a status"),
        head: head.to_owned(),
        body: body.to_owned(),
    }
}
