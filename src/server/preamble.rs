//! The PROXY protocol, versions 1 and 2 (haproxy.org, proxy-protocol.txt): what a load balancer
//! sends before the client's own bytes. Pure: bytes in, an address out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Longest preamble. Version 1 has at most 107 bytes. Version 2 may carry extra fields besides the
/// addresses, usually some hundred bytes.
pub const BYTES_MAX: usize = 4096;
/// Longest preamble of version 1, including its line end.
const LINE_BYTES_MAX: usize = 107;
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const HEAD_BYTES: usize = 16;

/// A complete preamble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preamble {
    /// The client's address; `None`: the balancer's own connection, or unknown.
    pub client: Option<IpAddr>,
    /// Its length. The client's bytes follow.
    pub len: usize,
}

/// This is not a preamble, and cannot become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the connection does not begin with the PROXY protocol")]
pub struct Malformed;

/// Parses the beginning of a connection. `None`: more bytes are needed.
pub fn parse(bytes: &[u8]) -> Result<Option<Preamble>, Malformed> {
    if begins(bytes, SIGNATURE) {
        return parse_binary(bytes);
    }
    if begins(bytes, b"PROXY ") {
        return parse_line(bytes);
    }
    Err(Malformed)
}

/// Whether one is the beginning of the other.
fn begins(bytes: &[u8], text: &[u8]) -> bool {
    let len = bytes.len().min(text.len());
    bytes[..len] == text[..len]
}

fn parse_line(bytes: &[u8]) -> Result<Option<Preamble>, Malformed> {
    let seen = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    let Some(end) = seen.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() < LINE_BYTES_MAX { Ok(None) } else { Err(Malformed) };
    };
    let line = str::from_utf8(&bytes[..end]).map_err(|_| Malformed)?;
    let words: Vec<_> = line.split(' ').skip(1).collect();
    let client = match words[..] {
        ["UNKNOWN", ..] => None,
        ["TCP4", source, target, source_port, target_port] => {
            let pair = (source.parse::<Ipv4Addr>(), target.parse::<Ipv4Addr>());
            check_ports([source_port, target_port])?;
            let (Ok(source), Ok(_)) = pair else { return Err(Malformed) };
            Some(source.into())
        }
        ["TCP6", source, target, source_port, target_port] => {
            let pair = (source.parse::<Ipv6Addr>(), target.parse::<Ipv6Addr>());
            check_ports([source_port, target_port])?;
            let (Ok(source), Ok(_)) = pair else { return Err(Malformed) };
            Some(IpAddr::from(source).to_canonical())
        }
        _ => return Err(Malformed),
    };
    Ok(Some(Preamble { client, len: end + 2 }))
}

fn check_ports(ports: [&str; 2]) -> Result<(), Malformed> {
    let is_port = |text: &str| text.parse::<u16>().is_ok();
    ports.into_iter().all(is_port).then_some(()).ok_or(Malformed)
}

fn parse_binary(bytes: &[u8]) -> Result<Option<Preamble>, Malformed> {
    let Some(head) = bytes.first_chunk::<HEAD_BYTES>() else { return Ok(None) };
    let [.., command, family, high, low] = *head;
    let len = HEAD_BYTES + usize::from(u16::from_be_bytes([high, low]));
    if len > BYTES_MAX || command >> 4 != 2 {
        return Err(Malformed);
    }
    let Some(addresses) = bytes.get(HEAD_BYTES..len) else { return Ok(None) };
    let client = match (command & 0xf, family) {
        // LOCAL: the balancer's own connection, such as a health check.
        (0, _) => None,
        // PROXY, TCP over IPv4 or IPv6: two addresses and two ports, and perhaps more.
        (1, 0x11) if addresses.len() >= 12 => {
            addresses.first_chunk().map(|source: &[u8; 4]| Ipv4Addr::from(*source).into())
        }
        (1, 0x21) if addresses.len() >= 36 => {
            let source = addresses.first_chunk().map(|source: &[u8; 16]| Ipv6Addr::from(*source));
            source.map(|source| IpAddr::from(source).to_canonical())
        }
        (1, 0x11 | 0x21) => return Err(Malformed),
        // A protocol without an IP address.
        (1, _) => None,
        _ => return Err(Malformed),
    };
    Ok(Some(Preamble { client, len }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Version 2, with this command, family and rest.
    fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let len = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &len, rest].concat()
    }

    fn whole() -> Vec<(Vec<u8>, Option<&'static str>)> {
        let six = [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[7], &[0; 16], &[0, 80, 1, 187]].concat();
        let mapped = [&[0; 10][..], &[255, 255, 192, 0, 2, 7], &[0; 20]].concat();
        vec![
            (b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 443\r\n".to_vec(), Some("192.0.2.7")),
            (b"PROXY TCP6 2001:db8::7 ::1 4711 443\r\n".to_vec(), Some("2001:db8::7")),
            (b"PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n".to_vec(), Some("192.0.2.7")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN whatever may stand here\r\n".to_vec(), None),
            (binary(0x21, 0x11, &[192, 0, 2, 7, 10, 0, 0, 1, 0, 80, 1, 187]), Some("192.0.2.7")),
            // With an extra field, as a balancer may send.
            (
                binary(0x21, 0x11, &[192, 0, 2, 7, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0]),
                Some("192.0.2.7"),
            ),
            (binary(0x21, 0x21, &six), Some("2001:db8::7")),
            (binary(0x21, 0x21, &mapped), Some("192.0.2.7")),
            (binary(0x20, 0, &[]), None),
            (binary(0x20, 0x11, &[1, 2, 3]), None),
            (binary(0x21, 0x31, &[0; 216]), None),
        ]
    }

    #[test]
    fn a_preamble_is_read_when_it_is_whole_and_not_before() {
        for (bytes, client) in whole() {
            let text = bytes.escape_ascii();
            for len in 0..bytes.len() {
                assert_eq!(parse(&bytes[..len]), Ok(None), "{len} bytes of {text}");
            }
            let client = client.map(|client| client.parse().unwrap());
            let wanted = Ok(Some(Preamble { client, len: bytes.len() }));
            assert_eq!(parse(&bytes), wanted, "{text}");
            let followed = [&bytes[..], b"GET / HTTP/1.1\r\n\r\n"].concat();
            assert_eq!(parse(&followed), wanted, "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused_at_once() {
        let long = [&b"PROXY UNKNOWN "[..], &[b'x'; 100]].concat();
        let huge = [&SIGNATURE[..], &[0x21, 0x11, 0xff, 0xff]].concat();
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"\r\n\r\nGET",
            b"PROXY\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 4711\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 443 1\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 65536\r\n",
            b"PROXY TCP4 2001:db8::7 ::1 4711 443\r\n",
            b"PROXY TCP6 192.0.2.7 10.0.0.1 4711 443\r\n",
            b"PROXY TCP4  192.0.2.7 10.0.0.1 4711 443\r\n",
            b"PROXY UDP4 192.0.2.7 10.0.0.1 4711 443\r\n",
            b"PROXY TCP4 \xff 10.0.0.1 4711 443\r\n",
            &long,
            &huge,
            &binary(0x11, 0x11, &[0; 12]),
            &binary(0x22, 0x11, &[0; 12]),
            &binary(0x21, 0x11, &[0; 11]),
            &binary(0x21, 0x21, &[0; 35]),
        ] {
            assert_eq!(parse(bytes), Err(Malformed), "{}", bytes.escape_ascii());
        }
    }
}
