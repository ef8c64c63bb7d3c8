//! Webhooks, from the config to what the realtime server calls.

use std::fmt::Display;
use std::path::PathBuf;
use std::sync::Arc;

use tidegate_balance::BreakerSettings;
use tidegate_config as config;
use tidegate_outbound::Endpoint;
use tidegate_realtime::{OnFailure, WebhookEvent, WebhookSettings};

use crate::StartError;

/// A webhook, with its file read.
pub(crate) fn settings(webhook: &config::Webhook) -> Result<WebhookSettings, StartError> {
    let fault = |what: &dyn Display| StartError::Config(format!("webhook {:?}: {what}", webhook.name));
    let read = |file: &PathBuf| std::fs::read(file).map_err(|error| fault(&format!("{}: {error}", file.display())));
    let ca = webhook.ca.as_ref().map(read).transpose()?;
    let endpoint = Endpoint::new(&webhook.url, ca.as_deref()).map_err(|error| fault(&error))?;
    let default = WebhookSettings::new(&webhook.name, Arc::new(endpoint), webhook.secret.clone());
    let events = |events: &[config::WebhookEvent]| {
        let event = |event: &config::WebhookEvent| match event {
            config::WebhookEvent::Connect => WebhookEvent::Connect,
            config::WebhookEvent::Disconnect => WebhookEvent::Disconnect,
            config::WebhookEvent::Join => WebhookEvent::Join,
            config::WebhookEvent::Leave => WebhookEvent::Leave,
            config::WebhookEvent::Publish => WebhookEvent::Publish,
        };
        events.iter().map(event).collect()
    };
    Ok(WebhookSettings {
        events: events(&webhook.events),
        notify: events(&webhook.notify),
        client_events: webhook.client_events.clone(),
        namespaces: webhook.namespaces.clone(),
        tenants: webhook.tenants.clone(),
        timeout: webhook.timeout,
        retries: webhook.retries,
        max_in_flight: webhook.max_in_flight,
        queue_events: webhook.queue,
        queue_bytes: webhook.queue_bytes,
        on_failure: match webhook.on_failure {
            config::OnFailure::Refuse => OnFailure::Refuse,
            config::OnFailure::Allow => OnFailure::Allow,
        },
        breaker: BreakerSettings {
            min_requests: webhook.breaker_calls,
            open_for_ms: u64::try_from(webhook.breaker_pause.as_millis()).unwrap_or(u64::MAX),
            ..default.breaker
        },
        ..default
    })
}
