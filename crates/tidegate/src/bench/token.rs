//! Tokens for the generated sessions.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use clap::Args;
use tidegate_auth::{Claims, KeySet};

/// Who the generated sessions are.
#[derive(Clone, Debug, Args)]
pub struct TokenArgs {
    /// One token for every session.
    #[arg(long, conflicts_with_all = ["jwt_secret", "secret_file"])]
    token: Option<String>,
    /// HS256 secret: each session gets its own token (`user-0`, `user-1`, …).
    #[arg(long, conflicts_with = "secret_file")]
    jwt_secret: Option<String>,
    /// File that holds the HS256 secret, e.g. `.tidegate/jwt-secret`.
    #[arg(long)]
    secret_file: Option<PathBuf>,
    /// Tenant in the minted tokens.
    #[arg(long, default_value = "default")]
    tenant: String,
}

/// Makes the `auth` object of each session.
pub struct Tokens {
    token: Option<String>,
    keys: Option<KeySet>,
    tenant: String,
    issued_at: u64,
}

impl TokenArgs {
    /// Reads the secret, if one was given.
    pub fn tokens(&self) -> anyhow::Result<Tokens> {
        let secret = match (&self.jwt_secret, &self.secret_file) {
            (Some(secret), _) => Some(secret.clone()),
            (None, Some(path)) => {
                let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
                Some(text.trim_end_matches(['\r', '\n']).to_owned())
            }
            (None, None) => None,
        };
        let issued_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Ok(Tokens {
            token: self.token.clone(),
            keys: secret.map(KeySet::hs256),
            tenant: self.tenant.clone(),
            issued_at,
        })
    }
}

impl Tokens {
    /// The `auth` object (JSON) of the session `index`.
    pub fn auth(&self, index: usize) -> String {
        let token = match (&self.token, &self.keys) {
            (Some(token), _) => token.clone(),
            (None, Some(keys)) => keys.sign(&self.claims(index)),
            (None, None) => return "{}".to_owned(),
        };
        format!("{{\"token\":{}}}", serde_json::Value::from(token))
    }

    fn claims(&self, index: usize) -> Claims {
        let user = format!("user-{index}");
        Claims {
            sub: Some(user.clone()),
            user_id: Some(user),
            tenant_id: Some(self.tenant.clone()),
            iat: Some(self.issued_at),
            exp: Some(self.issued_at + 24 * 3600),
            ..Claims::default()
        }
    }
}
