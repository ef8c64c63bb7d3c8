use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ring::rand::SystemRandom;
use tidegate_auth::{Algorithm, Claims, SigningKey};
use tidegate_server::exit;
use tidegate_types::{TenantId, UserId};

use crate::cli::TokenArgs;
use crate::dev::JWT_SECRET_FILE;
use crate::failure::Failure;
use crate::output::print;

/// Prints a token, and nothing else.
pub fn run(args: &TokenArgs) -> Result<u8, Failure> {
    let random = SystemRandom::new();
    let key = match &args.key_file {
        Some(path) => {
            let text = read(path, "key")?;
            SigningKey::from_pem(&text, args.algorithm, &random)
                .map_err(|fault| Failure::usage(format!("the key in {} cannot be used: {fault}", path.display())))?
        }
        None => {
            let secret = secret(args)?;
            if secret.is_empty() {
                return Err(Failure::usage("the secret is empty"));
            }
            let algorithm = args.algorithm.unwrap_or(Algorithm::Hs256);
            SigningKey::secret(algorithm, secret).map_err(|_| {
                Failure::usage(format!("{algorithm} signs with a key, not with a secret: give --key-file"))
            })?
        }
    };
    UserId::try_from(args.user.as_str()).map_err(|error| Failure::usage(format!("--user {error}")))?;
    TenantId::try_from(args.tenant.as_str()).map_err(|error| Failure::usage(format!("--tenant {error}")))?;
    let claims = Claims {
        username: args.username.clone(),
        kind: args.kind.clone(),
        roles: args.role.clone(),
        permissions: args.permission.clone(),
        jti: args.token_id.clone(),
        iss: args.issuer.clone(),
        aud: args.audience.clone(),
        ..claims(&args.user, &args.tenant, args.ttl)
    };
    let token = key.named(args.key_id.clone()).sign(&claims, &random);
    let token = token.ok_or_else(|| Failure::usage("the system has no random numbers to sign with"))?;
    print(&format!("{token}\n"))?;
    Ok(exit::OK)
}

fn read(path: &Path, what: &str) -> Result<String, Failure> {
    std::fs::read_to_string(path)
        .map_err(|error| Failure::io(format!("cannot read the {what} in {}", path.display()), error))
}

/// The claims of a token that begins now.
pub fn claims(user: &str, tenant: &str, ttl: Duration) -> Claims {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    Claims {
        sub: Some(user.to_owned()),
        user_id: Some(user.to_owned()),
        tenant_id: Some(tenant.to_owned()),
        iat: Some(now),
        exp: Some(now.saturating_add(ttl.as_secs())),
        ..Claims::default()
    }
}

fn secret(args: &TokenArgs) -> Result<String, Failure> {
    // A file is asked for by name; the environment only happens to be there.
    let file: Option<PathBuf> =
        args.secret_file.clone().or_else(|| args.data_dir.as_ref().map(|directory| directory.join(JWT_SECRET_FILE)));
    if let Some(path) = file {
        let text = read(&path, "secret")?;
        return Ok(text.trim_end_matches(['\r', '\n']).to_owned());
    }
    if let Some(secret) = &args.secret {
        return Ok(secret.clone());
    }
    std::env::var("JWT_SECRET").map_err(|_| {
        Failure::usage("which key? Give --data-dir, --secret-file, --key-file, or JWT_SECRET in the environment")
    })
}
