use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tidegate_auth::{Claims, KeySet};
use tidegate_server::exit;
use tidegate_types::{TenantId, UserId};

use crate::cli::TokenArgs;
use crate::dev::JWT_SECRET_FILE;
use crate::failure::Failure;
use crate::output::print;

/// Prints a token, and nothing else.
pub fn run(args: &TokenArgs) -> Result<u8, Failure> {
    let secret = secret(args)?;
    if secret.is_empty() {
        return Err(Failure::usage("the secret is empty"));
    }
    UserId::try_from(args.user.as_str()).map_err(|error| Failure::usage(format!("--user {error}")))?;
    TenantId::try_from(args.tenant.as_str()).map_err(|error| Failure::usage(format!("--tenant {error}")))?;
    let mut claims = claims(&args.user, &args.tenant, args.ttl);
    claims.username = args.username.clone();
    claims.roles = args.role.clone();
    claims.permissions = args.permission.clone();
    print(&format!("{}\n", KeySet::hs256(secret).sign(&claims)))?;
    Ok(exit::OK)
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
        let text = std::fs::read_to_string(&path)
            .map_err(|error| Failure::io(format!("cannot read the secret in {}", path.display()), error))?;
        return Ok(text.trim_end_matches(['\r', '\n']).to_owned());
    }
    if let Some(secret) = &args.secret {
        return Ok(secret.clone());
    }
    std::env::var("JWT_SECRET")
        .map_err(|_| Failure::usage("which secret? Give --data-dir, --secret-file, or JWT_SECRET in the environment"))
}
