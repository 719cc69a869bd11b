//! How a connection begins: encryption, version of the protocol, who comes, and with which settings.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pgwire::messages::response::{GssEncResponse, SslResponse};
use pgwire::messages::startup::{Authentication, BackendKeyData, NegotiateProtocolVersion, SecretKey};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::cancel::{Lines, Registered};
use super::error::{Report, Result, Trouble};
use super::frame::{Body, Io, Wire};
use super::scram;
use super::settings::SessionSettings;
use crate::gate::{Door, Gate, Principal, Scope};

/// Time until a client must have said who it is.
const PATIENCE: Duration = Duration::from_secs(10);
/// Codes that stand where a version would.
const CANCEL: i32 = 80_877_102;
const TLS: i32 = 80_877_103;
const GSS: i32 = 80_877_104;
/// First byte of a TLS handshake.
const TLS_HANDSHAKE: u8 = 0x16;

/// Any connection.
pub(super) type AnyWire = Wire<Box<dyn Io>>;

/// A connection whose client is known.
pub(super) struct Started {
    pub(super) wire: AnyWire,
    /// As the client calls itself.
    pub(super) user: String,
    pub(super) principal: Principal,
    pub(super) settings: Arc<SessionSettings>,
    pub(super) line: Registered,
}

/// Begins a connection; `None` if it has ended already.
pub(super) async fn start(
    gate: &Gate,
    lines: &Arc<Lines>,
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
) -> Option<Started> {
    let begun = async {
        let has_tls = tls.is_some();
        let Some((mut wire, is_secure, first)) = negotiate(stream, tls).await? else { return Ok(None) };
        match identify(gate, lines, &mut wire, first, peer, has_tls && !is_secure).await {
            Ok(Some((user, principal, settings, line))) => Ok(Some(Started { wire, user, principal, settings, line })),
            Ok(None) => Ok(None),
            Err(trouble) => {
                if let Trouble::Fatal(report) | Trouble::Statement(report) = trouble {
                    wire.put(&report.into_fatal().response())?;
                }
                wire.close().await;
                Ok(None)
            }
        }
    };
    let begun: Result<Option<Started>> = match tokio::time::timeout(PATIENCE, begun).await {
        Ok(begun) => begun,
        Err(_) => {
            tracing::debug!(%peer, "a client took too long to say who it is");
            Ok(None)
        }
    };
    begun.ok().flatten()
}

/// Encrypts the connection if the client wants it and we can; gives the first message that is about something else.
async fn negotiate(stream: TcpStream, tls: Option<TlsAcceptor>) -> Result<Option<(AnyWire, bool, Body)>> {
    let mut byte = [0];
    if stream.peek(&mut byte).await? == 1 && byte[0] == TLS_HANDSHAKE {
        // A client of PostgreSQL 17 may begin with TLS at once, and must then say for which protocol.
        let Some(tls) = tls else { return Ok(None) };
        let stream = tls.accept(stream).await?;
        if stream.get_ref().1.alpn_protocol() != Some(b"postgresql") {
            return Ok(None);
        }
        return encrypted(Box::new(stream)).await.map(Some);
    }
    let mut wire = Wire::new(stream);
    loop {
        let body = wire.first().await?;
        match body.0.first_chunk::<4>().map(|code| i32::from_be_bytes(*code)) {
            Some(TLS) => match tls {
                None => wire.put(&SslResponse::Refuse)?,
                Some(tls) => {
                    wire.put(&SslResponse::Accept)?;
                    wire.flush().await?;
                    // What came before the handshake could come from anybody.
                    let Some(stream) = wire.into_stream() else { return Ok(None) };
                    let stream = tls.accept(stream).await?;
                    return encrypted(Box::new(stream)).await.map(Some);
                }
            },
            Some(GSS) => wire.put(&GssEncResponse::Refuse)?,
            _ => return Ok(Some((wire.boxed(), false, body))),
        }
        wire.flush().await?;
    }
}

async fn encrypted(stream: Box<dyn Io>) -> Result<(AnyWire, bool, Body)> {
    let mut wire = Wire::new(stream);
    let first = wire.first().await?;
    Ok((wire, true, first))
}

type Identified = (String, Principal, Arc<SessionSettings>, Registered);

async fn identify(
    gate: &Gate,
    lines: &Arc<Lines>,
    wire: &mut AnyWire,
    mut first: Body,
    peer: SocketAddr,
    is_readable: bool,
) -> Result<Option<Identified>> {
    let version = first.int32()?;
    if version == CANCEL {
        let pid = first.int32()?;
        lines.cancel(pid, &first.0);
        return Ok(None);
    }
    let (major, minor) = (version >> 16, version & 0xffff);
    if major != 3 {
        let message = format!("protocol {major}.{minor} is not supported: the server speaks 3.0 and 3.2");
        return Err(Trouble::Fatal(Report::fatal("0A000", message)));
    }
    if is_readable && !peer.ip().to_canonical().is_loopback() {
        let message = "the connection is not encrypted, and the server lets nobody in who could be overheard";
        return Err(Trouble::Fatal(Report::fatal("28000", message).hint("connect with sslmode=require")));
    }
    let mut given = Vec::new();
    loop {
        let name = first.text()?;
        if name.is_empty() {
            break;
        }
        given.push((name, first.text()?));
    }
    let find = |wanted: &str| given.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone());
    let user = find("user").filter(|user| !user.is_empty()).ok_or_else(|| {
        Trouble::Fatal(
            Report::fatal("28000", "no user name was given").hint("connect with the name of a token as user"),
        )
    })?;
    if find("replication").is_some_and(|value| !matches!(value.as_str(), "false" | "off" | "no" | "0")) {
        return Err(Trouble::Fatal(Report::fatal("0A000", "replication is not supported")));
    }
    // Versions above 3.2 are talked down to it; 3.1 was never used.
    let agreed = if minor >= 2 { 2 } else { 0 };
    let options: Vec<String> =
        given.iter().map(|(name, _)| name.clone()).filter(|name| name.starts_with("_pq_.")).collect();
    if agreed != minor || !options.is_empty() {
        wire.put(&NegotiateProtocolVersion::new((3 << 16) | agreed, options))?;
    }
    let principal = if gate.tokens().needed()? {
        let principal = scram::authenticate(wire, gate, &user, peer).await?;
        gate.admit_request(&principal, Some(peer))?;
        principal
    } else {
        gate.authenticate(None, Door::Postgres, Some(peer))?
    };
    wire.put(&Authentication::Ok)?;
    let line = lines.register(agreed >= 2)?;
    let database = find("database").filter(|name| !name.is_empty()).unwrap_or_else(|| user.clone());
    let settings = SessionSettings::new(&user, &database, line.pid, principal.scope == Scope::Admin);
    for (name, value) in &given {
        match name.as_str() {
            "user" | "database" | "replication" => {}
            "options" => {
                for (name, value) in command_line(value)? {
                    settings.set_default(&name, &value)?;
                }
            }
            name if name.starts_with("_pq_.") => {}
            name => settings.set_default(name, value)?,
        }
    }
    let secret = SecretKey::Bytes(line.secret());
    wire.put(&BackendKeyData::new(line.pid, secret))?;
    Ok(Some((user, principal, Arc::new(settings), line)))
}

/// `-c name=value --other-name=value` as settings; a backslash stands before a blank that is part of a value.
fn command_line(options: &str) -> Result<Vec<(String, String)>> {
    let mut words = vec![String::new()];
    let mut characters = options.chars();
    while let Some(character) = characters.next() {
        match (character, words.last_mut()) {
            ('\\', Some(word)) => word.extend(characters.next()),
            (blank, _) if blank.is_whitespace() => words.push(String::new()),
            (character, Some(word)) => word.push(character),
            _ => {}
        }
    }
    let mut settings = Vec::new();
    let mut words = words.into_iter().filter(|word| !word.is_empty());
    while let Some(word) = words.next() {
        let setting = if word == "-c" {
            words.next()
        } else {
            word.strip_prefix("--").or_else(|| word.strip_prefix("-c")).map(str::to_owned)
        };
        let pair = setting.as_deref().and_then(|setting| setting.split_once('='));
        let Some((name, value)) = pair else {
            let message = format!("options: expected -c name=value, got '{word}'");
            return Err(Trouble::Fatal(Report::fatal("22023", message)));
        };
        settings.push((name.replace('-', "_"), value.to_owned()));
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_the_connection() {
        let settings = command_line(r"-c statement_timeout=5s -cgeqo=off --application-name=my\ app").unwrap();
        let expected = [("statement_timeout", "5s"), ("geqo", "off"), ("application_name", "my app")];
        assert_eq!(settings, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert!(command_line("-x 1").is_err() && command_line("").unwrap().is_empty());
    }
}
