//! ServiceAccount tokens: ES256 JSON web tokens (KEP-1205), bound to the account and optionally to a pod. A token is invalid once an object that
//! it is bound to is deleted.

use super::legacy::{self, LegacyClaims};
use api::Status;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use http::header;
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation};
use parking_lot::Mutex;
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use server::{
    Document, Objects, User,
    authn::{Authenticator, Credentials},
};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// Signs and verifies tokens. Cheap to clone.
#[derive(Clone)]
pub struct Tokens(Arc<Inner>);

struct Inner {
    issuer: String,
    id: String,
    /// Read once: `jsonwebtoken::encode` reads its key for every token, which takes longer than to sign.
    sign: EcdsaKeyPair,
    verify: DecodingKey,
    /// X and Y of the public key, base64url.
    point: (String, String),
    /// Claims of verified tokens by digest, because a client sends the same token with every request.
    checked: Mutex<HashMap<[u8; 32], Verified>>,
    /// Secrets (namespace and name) whose token was used, and the day that is to be written into them.
    used: Mutex<BTreeMap<(String, String), String>>,
}

/// The claims of a token whose signature was verified.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum Verified {
    /// Of a token with an end.
    Bound(Box<Claims>),
    /// Of the token of a Secret.
    Legacy(LegacyClaims),
}

/// Most verified tokens in the cache, which is cleared when it is full.
const CHECKED: usize = 1024;

/// A named object and its uid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
}

/// The `kubernetes.io` claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// Namespace of the account and of the bound objects.
    pub namespace: String,
    /// The account.
    pub serviceaccount: Reference,
    /// The pod that the token is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Reference>,
    /// The node of that pod, or the node that the token is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Reference>,
    /// The secret that the token is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Reference>,
    /// After this time (seconds) a client that still uses the token gets a warning in the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

/// The claims of a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Audiences.
    pub aud: Vec<String>,
    /// Expiry, seconds since the epoch.
    pub exp: i64,
    /// Issued at.
    pub iat: i64,
    /// Issuer.
    pub iss: String,
    /// Unique id.
    pub jti: String,
    /// The account and the bound objects.
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: Bound,
    /// Not before.
    pub nbf: i64,
    /// `system:serviceaccount:ns:name`.
    pub sub: String,
}

/// An error of signing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The key is not a P-256 private key in PKCS #8 PEM.
    #[error("the token key is not an ECDSA P-256 key: {0}")]
    Key(String),
    /// Signing failed.
    #[error("signing failed: {0}")]
    Sign(String),
}

impl Tokens {
    /// From the PEM (PKCS #8) of an ECDSA P-256 private key. `issuer` is an https URL.
    ///
    /// # Errors
    /// The text is no such key.
    pub fn new(key: &str, issuer: &str) -> Result<Self, Error> {
        let pair = rcgen::KeyPair::from_pem(key).map_err(|e| Error::Key(e.to_string()))?;
        let raw = pair.public_key_raw();
        // An uncompressed point: 4, X, Y.
        if raw.len() != 65 || raw[0] != 4 {
            return Err(Error::Key("not on P-256".into()));
        }
        let point = (BASE64_URL_SAFE_NO_PAD.encode(&raw[1..33]), BASE64_URL_SAFE_NO_PAD.encode(&raw[33..]));
        let verify = DecodingKey::from_ec_components(&point.0, &point.1).map_err(|e| Error::Key(e.to_string()))?;
        let sign =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pair.serialize_der(), &SystemRandom::new())
                .map_err(|e| Error::Key(e.to_string()))?;
        let id = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(raw));
        Ok(Self(Arc::new(Inner {
            issuer: issuer.to_owned(),
            id,
            sign,
            verify,
            point,
            checked: Mutex::default(),
            used: Mutex::default(),
        })))
    }

    /// The issuer: the `iss` of tokens and their default audience.
    pub fn issuer(&self) -> &str {
        &self.0.issuer
    }

    /// Signs claims.
    ///
    /// # Errors
    /// The library cannot sign.
    pub fn sign(&self, claims: &Claims) -> Result<String, Error> {
        self.sign_json(claims)
    }

    /// The token of a Secret, for the account of its namespace with this name and uid.
    ///
    /// # Errors
    /// The library cannot sign.
    pub fn sign_legacy(&self, namespace: &str, account: &str, uid: &str, secret: &str) -> Result<String, Error> {
        self.sign_json(&LegacyClaims::new(namespace, account, uid, secret))
    }

    fn sign_json(&self, claims: &impl Serialize) -> Result<String, Error> {
        let header = Header { kid: Some(self.0.id.clone()), ..Header::new(Algorithm::ES256) };
        let part = |json: serde_json::Result<Vec<u8>>| {
            json.map(|json| BASE64_URL_SAFE_NO_PAD.encode(json)).map_err(|e| Error::Sign(e.to_string()))
        };
        let message = format!("{}.{}", part(serde_json::to_vec(&header))?, part(serde_json::to_vec(claims))?);
        let signature =
            self.0.sign.sign(&SystemRandom::new(), message.as_bytes()).map_err(|e| Error::Sign(e.to_string()))?;
        Ok(format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature)))
    }

    /// The claims of a token that this cluster signed and that is valid now. The caller checks audiences and bound objects.
    pub fn verify(&self, token: &str, now: Timestamp) -> Option<Claims> {
        let Verified::Bound(claims) = self.verified(token)? else { return None };
        is_current(&claims, now).then_some(*claims)
    }

    fn verified(&self, token: &str) -> Option<Verified> {
        let digest: [u8; 32] = Sha256::digest(token).into();
        if let Some(known) = self.0.checked.lock().get(&digest) {
            return Some(known.clone());
        }
        let claims = self.check_signature(token)?;
        let mut checked = self.0.checked.lock();
        if checked.len() >= CHECKED {
            checked.clear();
        }
        checked.insert(digest, claims.clone());
        Some(claims)
    }

    fn check_signature(&self, token: &str) -> Option<Verified> {
        let mut rules = Validation::new(Algorithm::ES256);
        // Times are checked against `now`, at every use.
        rules.validate_exp = false;
        rules.validate_nbf = false;
        rules.validate_aud = false;
        rules.set_required_spec_claims(&["iss", "sub"]);
        rules.set_issuer(&[self.issuer(), legacy::ISSUER]);
        let claims = jsonwebtoken::decode::<Verified>(token, &self.0.verify, &rules).ok()?.claims;
        let issuer = match &claims {
            Verified::Bound(claims) => claims.iss == self.issuer(),
            Verified::Legacy(claims) => claims.iss == legacy::ISSUER,
        };
        issuer.then_some(claims)
    }

    /// The user of a token, if all bound objects still exist.
    pub fn user(&self, token: &str, now: Timestamp, objects: &dyn Objects) -> Option<User> {
        self.review(token, &[self.issuer()], now, objects).map(|(user, _)| user)
    }

    /// The user of a token, and for which of these audiences it is: for one of them at least. The token of a Secret is for the API.
    pub(crate) fn review(
        &self,
        token: &str,
        audiences: &[&str],
        now: Timestamp,
        objects: &dyn Objects,
    ) -> Option<(User, Vec<String>)> {
        let for_some = |of: &[String]| -> Option<Vec<String>> {
            let found: Vec<String> = of.iter().filter(|one| audiences.contains(&one.as_str())).cloned().collect();
            (!found.is_empty()).then_some(found)
        };
        match self.verified(token)? {
            Verified::Bound(claims) => {
                let found = for_some(&claims.aud)?;
                if is_current(&claims, now) { Some((user_of(&claims, objects)?, found)) } else { None }
            }
            Verified::Legacy(claims) => {
                let found = for_some(&[self.issuer().to_owned()])?;
                let (user, label) = claims.user(token, objects)?;
                if let Some(day) = legacy::used_on(&label, now) {
                    self.0.used.lock().insert((claims.namespace, claims.secret), day);
                }
                Some((user, found))
            }
        }
    }

    /// Secrets (namespace and name) whose tokens were used since the last call, with the day that their label is to say.
    pub(crate) fn take_used(&self) -> BTreeMap<(String, String), String> {
        std::mem::take(&mut *self.0.used.lock())
    }

    /// The documents of service account issuer discovery.
    pub fn documents(&self) -> Vec<Document> {
        let (configuration, keys) = ("/.well-known/openid-configuration", "/openid/v1/jwks");
        vec![
            Document { path: configuration, media_type: "application/json", value: self.configuration() },
            Document { path: keys, media_type: "application/jwk-set+json", value: self.jwks() },
        ]
    }

    /// `/openid/v1/jwks`.
    pub fn jwks(&self) -> Value {
        let (x, y) = &self.0.point;
        json!({"keys": [{"use": "sig", "kty": "EC", "kid": self.0.id, "crv": "P-256", "alg": "ES256", "x": x, "y": y}]})
    }

    /// `/.well-known/openid-configuration`.
    pub fn configuration(&self) -> Value {
        json!({
            "issuer": self.issuer(),
            "jwks_uri": format!("{}/openid/v1/jwks", self.issuer().trim_end_matches('/')),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }
}

#[async_trait::async_trait]
impl Authenticator for Tokens {
    async fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Option<User>, Status> {
        let Some(value) = credentials.headers.get(header::AUTHORIZATION) else { return Ok(None) };
        let text = value.to_str().map_err(|_| Status::unauthorized())?;
        let token = match text.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
            _ => return Err(Status::unauthorized()),
        };
        self.user(token, credentials.now, credentials.objects).map(Some).ok_or_else(Status::unauthorized)
    }
}

/// Whether a token is valid at a time.
fn is_current(claims: &Claims, now: Timestamp) -> bool {
    let now = now.as_second();
    claims.nbf <= now && now < claims.exp
}

/// The user of claims, if the bound objects still exist with the same uid.
pub fn user_of(claims: &Claims, objects: &dyn Objects) -> Option<User> {
    let bound = &claims.kubernetes;
    let (namespace, account) = (bound.namespace.as_str(), &bound.serviceaccount);
    let lives = |resource: &str, namespace: &str, reference: &Reference| {
        objects.get("", resource, namespace, &reference.name).is_some_and(|o| o.uid() == reference.uid)
    };
    let bound_to = [("pods", &bound.pod), ("secrets", &bound.secret)];
    let all = lives("serviceaccounts", namespace, account)
        && bound_to.iter().all(|(resource, r)| r.as_ref().is_none_or(|r| lives(resource, namespace, r)))
        && (bound.pod.is_some() || bound.node.as_ref().is_none_or(|n| lives("nodes", "", n)));
    if !all {
        return None;
    }
    let mut extra = BTreeMap::new();
    let mut add = |key: &str, value: String| extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value]);
    add("credential-id", format!("JTI={}", claims.jti));
    for (kind, reference) in [("pod", &bound.pod), ("node", &bound.node)] {
        if let Some(reference) = reference {
            add(&format!("{kind}-name"), reference.name.clone());
            add(&format!("{kind}-uid"), reference.uid.clone());
        }
    }
    Some(User {
        name: format!("system:serviceaccount:{namespace}:{}", account.name),
        uid: account.uid.clone(),
        groups: vec![
            "system:serviceaccounts".into(),
            format!("system:serviceaccounts:{namespace}"),
            "system:authenticated".into(),
        ],
        extra,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use api::Object;

    pub(crate) fn key() -> String {
        rcgen::KeyPair::generate().expect("a key").serialize_pem()
    }

    struct One(Option<&'static str>);

    impl Objects for One {
        fn get(&self, _: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Object>> {
            assert_eq!((resource, namespace, name), ("serviceaccounts", "ns", "sa"));
            let object = json!({"metadata": {"name": "sa", "uid": self.0?}});
            Object::from_value(object).map(Arc::new)
        }
        fn list(&self, _: &str, _: &str, _: &str) -> Vec<Arc<Object>> {
            Vec::new()
        }
        fn changes(&self, _: &str, _: &str) -> server::Changes {
            server::Changes::default()
        }
    }

    fn claims(tokens: &Tokens) -> Claims {
        Claims {
            aud: vec![tokens.issuer().into()],
            exp: 1000,
            iat: 100,
            iss: tokens.issuer().into(),
            jti: "j".into(),
            kubernetes: Bound {
                namespace: "ns".into(),
                serviceaccount: Reference { name: "sa".into(), uid: "u".into() },
                pod: None,
                node: None,
                secret: None,
                warnafter: None,
            },
            nbf: 100,
            sub: "system:serviceaccount:ns:sa".into(),
        }
    }

    #[test]
    fn a_token_is_good_for_its_time_its_key_and_its_account() {
        let tokens = Tokens::new(&key(), "https://kubernetes.default.svc").expect("tokens");
        let other = Tokens::new(&key(), "https://kubernetes.default.svc").expect("tokens");
        let token = tokens.sign(&claims(&tokens)).expect("a token");
        let at = |seconds| Timestamp::from_second(seconds).expect("a time");
        let user = tokens.user(&token, at(500), &One(Some("u"))).expect("authenticated");
        assert_eq!(user.name, "system:serviceaccount:ns:sa");
        assert_eq!(user.extra["authentication.kubernetes.io/credential-id"], ["JTI=j"]);
        for (seconds, uid, signer) in [
            (1000, Some("u"), &tokens),
            (99, Some("u"), &tokens),
            (500, Some("v"), &tokens),
            (500, None, &tokens),
            (500, Some("u"), &other),
        ] {
            assert_eq!(signer.user(&token, at(seconds), &One(uid)), None);
        }
        let mut foreign = claims(&tokens);
        foreign.aud = vec!["vault".into()];
        let foreign = tokens.sign(&foreign).expect("a token");
        assert_eq!(tokens.user(&foreign, at(500), &One(Some("u"))), None);
        let mut tampered = token.into_bytes();
        let middle = tampered.len() / 2;
        tampered[middle] ^= 1;
        assert_eq!(tokens.user(&String::from_utf8_lossy(&tampered), at(500), &One(Some("u"))), None);
    }

    #[test]
    fn a_token_of_a_secret_has_no_end_and_cannot_pass_for_another() {
        let tokens = Tokens::new(&key(), "https://issuer").expect("tokens");
        let other = Tokens::new(&key(), "https://issuer").expect("tokens");
        let token = tokens.sign_legacy("ns", "sa", "u", "s").expect("a token");
        let data = base64::prelude::BASE64_STANDARD.encode(&token);
        let stored = crate::testing::Stored::default()
            .with("", "secrets", &format!("{{metadata: {{name: s, namespace: ns}}, data: {{token: {data}}}}}"))
            .with("", "serviceaccounts", "{metadata: {name: sa, namespace: ns, uid: u}}");
        let at = |seconds| Timestamp::from_second(seconds).expect("a time");
        for seconds in [0, 1 << 35] {
            let user = tokens.user(&token, at(seconds), &stored).expect("a user");
            assert_eq!(user.name, "system:serviceaccount:ns:sa");
        }
        let used = tokens.take_used();
        assert_eq!(used.keys().collect::<Vec<_>>(), [&("ns".to_owned(), "s".to_owned())]);
        assert!(tokens.take_used().is_empty(), "written once");
        assert_eq!(tokens.verify(&token, at(5)), None, "it has no claims of a bound token");
        assert_eq!(other.user(&token, at(5), &stored), None, "another key");
        // A token that has an end does not become one without by its issuer.
        let bound = Claims { iss: legacy::ISSUER.into(), ..claims(&tokens) };
        let bound = tokens.sign(&bound).expect("a token");
        assert_eq!(tokens.user(&bound, at(500), &stored), None);
    }

    #[test]
    fn the_public_key_is_published() {
        let tokens = Tokens::new(&key(), "https://issuer").expect("tokens");
        assert_eq!(tokens.jwks()["keys"][0]["alg"], "ES256");
        assert_eq!(tokens.configuration()["jwks_uri"], "https://issuer/openid/v1/jwks");
        assert!(Tokens::new("nonsense", "https://issuer").is_err());
    }
}
