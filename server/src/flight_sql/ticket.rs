//! Tickets: what `DoGet` runs, sealed so that only this process can have made it and only one caller can use it.

use bytes::Bytes;
use prost::Message;
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use saequel_engine::ErrorKind;

use crate::error::{Failure, Result};
use crate::gate::Principal;

/// Bytes of the seal.
const SEAL: usize = 32;

/// A statement that may be run.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Ticket {
    /// Of [`owner`].
    #[prost(string, tag = "1")]
    pub(super) owner: String,
    /// What the ids of its queries begin with.
    #[prost(string, tag = "2")]
    pub(super) id: String,
    #[prost(string, tag = "3")]
    pub(super) statement: String,
    /// The columns that were told, as an IPC message.
    #[prost(bytes = "bytes", tag = "4")]
    pub(super) schema: Bytes,
    /// Values of the parameters, as an IPC stream: the statement is run for each row. Empty: it has none.
    #[prost(bytes = "bytes", tag = "5")]
    pub(super) parameters: Bytes,
}

/// Who may use a ticket or a prepared statement: a token's name. All who come without a token are one.
pub(super) fn owner(principal: &Principal) -> String {
    // No token's name begins with a blank.
    if principal.is_anonymous() { " anonymous".to_owned() } else { principal.name.clone() }
}

/// Seals and opens tickets, with a key that ends with the process; without a key, if the system gave no randomness,
/// nothing is sealed.
#[derive(Debug)]
pub(super) struct Sealer(Option<hmac::Key>);

impl Sealer {
    pub(super) fn new() -> Self {
        Self(hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).ok())
    }

    /// The bytes that clients get.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] without a key.
    pub(super) fn seal(&self, ticket: &Ticket) -> Result<Bytes> {
        let Some(key) = &self.0 else { return Err(no_randomness()) };
        let content = ticket.encode_to_vec();
        let mut sealed = hmac::sign(key, &content).as_ref().to_vec();
        sealed.extend_from_slice(&content);
        Ok(sealed.into())
    }

    /// The ticket, if it was sealed here for `principal`.
    ///
    /// # Errors
    /// [`ErrorKind::Denied`]: one message for a forged ticket, one of another process, and one of another caller.
    pub(super) fn open(&self, sealed: &[u8], principal: &Principal) -> Result<Ticket> {
        let opened = sealed.split_at_checked(SEAL).and_then(|(seal, content)| {
            hmac::verify(self.0.as_ref()?, content, seal).ok()?;
            Ticket::decode(content).ok()
        });
        opened.filter(|ticket| ticket.owner == owner(principal)).ok_or_else(|| {
            Failure::new(ErrorKind::Denied, "the ticket was not given to this caller by this server")
                .hint("ask for a new one with GetFlightInfo: tickets end with the server, and belong to one token")
        })
    }
}

/// An id that nobody guesses.
///
/// # Errors
/// [`ErrorKind::Internal`] if the system gives no randomness.
pub(super) fn random_id() -> Result<String> {
    let mut bytes = [0_u8; 16];
    SystemRandom::new().fill(&mut bytes).map_err(|_| no_randomness())?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn no_randomness() -> Failure {
    Failure::new(ErrorKind::Internal, "the system gives no random bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_opens_for_its_owner_only() {
        let sealer = Sealer::new();
        let somebody = Principal::anonymous(false);
        let ticket = Ticket { owner: owner(&somebody), statement: "SELECT 1".to_owned(), ..Ticket::default() };
        let sealed = sealer.seal(&ticket).unwrap();
        assert_eq!(sealer.open(&sealed, &somebody).unwrap(), ticket);
        let other = sealer.seal(&Ticket { owner: "ci".to_owned(), ..ticket.clone() }).unwrap();
        assert_eq!(sealer.open(&other, &somebody).unwrap_err().kind(), ErrorKind::Denied);
        assert!(Sealer::new().open(&sealed, &somebody).is_err(), "another process");
        for position in [0, SEAL, sealed.len() - 1] {
            let mut forged = sealed.to_vec();
            forged[position] ^= 1;
            assert!(sealer.open(&forged, &somebody).is_err(), "byte {position}");
        }
        assert!(sealer.open(&sealed[..10], &somebody).is_err() && sealer.open(b"", &somebody).is_err());
    }
}
