//! SCRAM-SHA-256 (RFC 5802, RFC 7677): the client proves that it knows the token, which never crosses the wire.
//!
//! Ours rather than pgwire's, which wants the salted password: of a token only the keys made from it are kept.

use std::net::SocketAddr;
use std::sync::OnceLock;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use pgwire::messages::startup::Authentication;
use ring::{digest, hmac};

use super::cancel::random_bytes;
use super::error::{Report, Result, Trouble};
use super::frame::{Io, Wire};
use crate::gate::{Door, Gate, Principal, ScramKeys};

const MECHANISM: &str = "SCRAM-SHA-256";

/// Who the client is, if it knows the token named `user`.
///
/// # Errors
/// 28P01 for a wrong token and for a name that does not exist: which of them, is not told.
pub(super) async fn authenticate<S: Io>(
    wire: &mut Wire<S>,
    gate: &Gate,
    user: &str,
    peer: SocketAddr,
) -> Result<Principal> {
    // Channel binding is not offered: a proxy in front may end TLS.
    wire.put(&Authentication::SASL(vec![MECHANISM.to_owned()]))?;
    let mut first = answer(wire).await?;
    let mechanism = first.text()?;
    if mechanism != MECHANISM {
        return Err(Trouble::protocol(format!("expected {MECHANISM}, got {mechanism}")));
    }
    let length = usize::try_from(first.int32()?).unwrap_or(0);
    let client_first = text(first.bytes(length)?)?;
    let known = gate.tokens().scram(user).ok();
    let keys = match &known {
        Some((keys, _)) => keys.clone(),
        None => made_up(user)?,
    };
    let exchange = Exchange::begin(&client_first, &keys, &BASE64_STANDARD.encode(random_bytes::<18>()?))?;
    wire.put(&Authentication::SASLContinue(exchange.server_first.clone().into()))?;
    let client_final = text(answer(wire).await?.0)?;
    let proven = exchange.finish(&client_final, &keys)?;
    match (proven, known) {
        (Some(server_final), Some((_, principal))) => {
            wire.put(&Authentication::SASLFinal(server_final.into()))?;
            Ok(principal)
        }
        _ => Err(match gate.wrong_token(Door::Postgres, Some(peer)) {
            Some(too_many) => Trouble::Fatal(Report::fatal(too_many.wire().sqlstate, too_many.line())),
            None => {
                let message = format!("password authentication failed for user \"{user}\"");
                Trouble::Fatal(Report::fatal("28P01", message).hint(
                    "the user is the name of a token, the password the token; `saequel token create NAME` makes one",
                ))
            }
        }),
    }
}

async fn answer<S: Io>(wire: &mut Wire<S>) -> Result<super::frame::Body> {
    wire.flush().await?;
    let frame = wire.frame().await?;
    if frame.tag == b'p' { Ok(frame.body) } else { Err(Trouble::protocol("expected a SASL message")) }
}

fn text(bytes: bytes::Bytes) -> Result<String> {
    String::from_utf8(bytes.into()).map_err(|_| Trouble::protocol("expected a SASL message in UTF-8"))
}

/// Keys that no token has, always the same for a name, so that names cannot be probed.
fn made_up(user: &str) -> Result<ScramKeys> {
    static SECRET: OnceLock<[u8; 32]> = OnceLock::new();
    let secret = match SECRET.get() {
        Some(secret) => secret,
        None => {
            let made = random_bytes()?;
            SECRET.get_or_init(|| made)
        }
    };
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let salt = hmac::sign(&key, user.as_bytes());
    let nothing = BASE64_STANDARD.encode([0; 32]);
    Ok(ScramKeys {
        salt: BASE64_STANDARD.encode(&salt.as_ref()[..16]),
        iterations: 4096,
        stored_key: nothing.clone(),
        server_key: nothing,
    })
}

/// A conversation of which the first half is done.
struct Exchange {
    /// What `c=` must say: the client's word on channel binding.
    binding: String,
    client_first_bare: String,
    nonce: String,
    server_first: String,
}

impl Exchange {
    fn begin(client_first: &str, keys: &ScramKeys, server_nonce: &str) -> Result<Self> {
        let broken = || Trouble::protocol("malformed SCRAM message");
        // n: the client knows no channel binding; y: it does, and has seen that we offer none.
        let mut parts = client_first.splitn(3, ',');
        let (binding, authzid, bare) = (parts.next(), parts.next(), parts.next());
        let (Some(binding @ ("n" | "y")), Some(authzid), Some(bare)) = (binding, authzid, bare) else {
            return Err(broken());
        };
        let mut attributes = bare.split(',');
        let has_name = attributes.next().is_some_and(|name| name.starts_with("n="));
        let client_nonce =
            attributes.next().and_then(|nonce| nonce.strip_prefix("r=")).filter(|nonce| !nonce.is_empty());
        let (true, Some(client_nonce)) = (has_name, client_nonce) else { return Err(broken()) };
        let nonce = format!("{client_nonce}{server_nonce}");
        Ok(Self {
            binding: BASE64_STANDARD.encode(format!("{binding},{authzid},")),
            server_first: format!("r={nonce},s={},i={}", keys.salt, keys.iterations),
            client_first_bare: bare.to_owned(),
            nonce,
        })
    }

    /// What proves to the client that we know the token too; `None` if it does not.
    fn finish(&self, client_final: &str, keys: &ScramKeys) -> Result<Option<String>> {
        let broken = || Trouble::protocol("malformed SCRAM message");
        let (without_proof, proof) = client_final.rsplit_once(",p=").ok_or_else(broken)?;
        let mut attributes = without_proof.split(',');
        if attributes.next().and_then(|binding| binding.strip_prefix("c=")) != Some(self.binding.as_str())
            || attributes.next().and_then(|nonce| nonce.strip_prefix("r=")) != Some(self.nonce.as_str())
        {
            return Err(broken());
        }
        let decode = |text: &str| BASE64_STANDARD.decode(text).map_err(|_| broken());
        let (proof, stored_key, server_key) = (decode(proof)?, decode(&keys.stored_key)?, decode(&keys.server_key)?);
        let said = format!("{},{},{without_proof}", self.client_first_bare, self.server_first);
        let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &stored_key), said.as_bytes());
        if proof.len() != signature.as_ref().len() {
            return Err(broken());
        }
        let client_key: Vec<u8> = proof.iter().zip(signature.as_ref()).map(|(a, b)| a ^ b).collect();
        if digest::digest(&digest::SHA256, &client_key).as_ref() != stored_key {
            return Ok(None);
        }
        let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &server_key), said.as_bytes());
        Ok(Some(format!("v={}", BASE64_STANDARD.encode(signature))))
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use ring::pbkdf2;

    use super::*;

    /// The example of RFC 7677.
    fn keys(password: &str) -> ScramKeys {
        let salt = BASE64_STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let mut salted = [0; 32];
        pbkdf2::derive(
            pbkdf2::PBKDF2_HMAC_SHA256,
            NonZeroU32::new(4096).unwrap(),
            &salt,
            password.as_bytes(),
            &mut salted,
        );
        let key = hmac::Key::new(hmac::HMAC_SHA256, &salted);
        let client_key = hmac::sign(&key, b"Client Key");
        ScramKeys {
            salt: BASE64_STANDARD.encode(salt),
            iterations: 4096,
            stored_key: BASE64_STANDARD.encode(digest::digest(&digest::SHA256, client_key.as_ref())),
            server_key: BASE64_STANDARD.encode(hmac::sign(&key, b"Server Key")),
        }
    }

    #[test]
    fn the_example_of_the_standard() {
        let first = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
        let server_nonce = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let last = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        let exchange = Exchange::begin(first, &keys("pencil"), server_nonce).unwrap();
        let proven = exchange.finish(last, &keys("pencil")).unwrap();
        assert_eq!(proven.as_deref(), Some("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="));
        assert_eq!(exchange.finish(last, &keys("pencils")).unwrap(), None);
        assert_eq!(exchange.finish(last, &made_up("user").unwrap()).unwrap(), None);
        assert!(exchange.finish(&last.replace("biws", "eSws"), &keys("pencil")).is_err());
        assert!(exchange.finish(&last.replace("rOpr", "xOpr"), &keys("pencil")).is_err());
        for bad in ["", "n", "p=tls-unique,,n=user,r=x", "n,,r=x", "n,,n=user,r="] {
            assert!(Exchange::begin(bad, &keys("pencil"), server_nonce).is_err(), "{bad}");
        }
        assert_eq!(made_up("a").unwrap().salt, made_up("a").unwrap().salt);
        assert_ne!(made_up("a").unwrap().salt, made_up("b").unwrap().salt);
    }
}
