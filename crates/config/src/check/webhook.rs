use std::collections::HashMap;

use tidegate_auth::Secret;
use tidegate_types::{EventName, InvalidName};

use crate::check::secret::{Names, secret};
use crate::check::{bytes, count, known, name, path, period, small};
use crate::file;
use crate::reader::{At, List, Reader};
use crate::{OnFailure, RealtimeNamespace, Webhook, WebhookEvent};

/// As many bytes as a good random one has.
const MIN_SECRET_BYTES: usize = 16;

/// The backends that are asked or told.
pub(super) fn webhooks(
    reader: &Reader<'_>,
    found: Option<At<List<file::Webhook>>>,
    enabled: bool,
    served: &[RealtimeNamespace],
) -> Vec<Webhook> {
    let mut names: HashMap<String, usize> = HashMap::new();
    let found = found.map(|found| found.value.0).unwrap_or_default();
    // One that is misspelt would leave its namespace without the backend's say.
    for namespace in found.iter().filter_map(|found| found.value.namespaces.as_ref()).flat_map(|found| &found.value.0) {
        known(reader, namespace, "namespace", served.iter().map(|served| served.name.as_str()));
    }
    found.into_iter().filter_map(|found| webhook(reader, found, &mut names, enabled)).collect()
}

fn webhook(
    reader: &Reader<'_>,
    At { value: found, place }: At<file::Webhook>,
    names: &mut HashMap<String, usize>,
    enabled: bool,
) -> Option<Webhook> {
    for key in ["name", "url"].into_iter().filter(|key| found.lacks(key)) {
        reader.problem(place, format!("[[realtime.webhook]] needs {key:?}"));
    }
    if found.lacks("secret") && found.lacks("secret_file") {
        reader.problem(place, "[[realtime.webhook]] needs a secret: set \"secret\" or \"secret_file\"");
    }
    let text = found.secret.map(|secret| At::new(secret.value.0, secret.place));
    let names_of_it =
        Names { text: "secret", file: "secret_file", what: "the secret of a webhook", least: MIN_SECRET_BYTES };
    let secret = secret(reader, text, found.secret_file, &names_of_it, enabled);
    let given = found.name?;
    let called = name(reader, &given.value, given.place, "a webhook");
    if let Some(first) = names.insert(given.value.clone(), given.place) {
        let line = reader.line(first);
        reader.problem(given.place, format!("there is a webhook {:?} already, at line {line}", given.value));
    }
    let default =
        Webhook::new(&called, &found.url?.value.0, secret.map_or_else(|| Secret::from(""), |found| found.value));
    let events: Vec<WebhookEvent> = plain(found.events);
    let notify = found.notify.map(|found| found.value.0).unwrap_or_default();
    for At { value: event, place } in &notify {
        match event {
            WebhookEvent::Connect | WebhookEvent::Join | WebhookEvent::Publish => {}
            WebhookEvent::Disconnect | WebhookEvent::Leave => {
                let event = event.as_str();
                reader.problem(*place, format!("{event:?} has happened when it is told: it need not be in \"notify\""));
            }
        }
        if !events.contains(event) {
            let event = event.as_str();
            reader.problem(*place, format!("{event:?} is not among the \"events\" of this webhook"));
        }
    }
    let client_events = named(reader, found.client_events, "client_events", |text| {
        EventName::try_from(text.strip_suffix('*').filter(|start| !start.is_empty()).unwrap_or(text))
            .map(|_| Box::from(text))
    });
    if events.is_empty() && client_events.is_empty() {
        reader.problem(place, "a webhook without \"events\" and \"client_events\" is never called");
    }
    Some(Webhook {
        ca: found.ca.as_ref().map(|ca| path(reader, ca, "ca")),
        events,
        notify: notify.into_iter().map(|found| found.value).collect(),
        client_events,
        namespaces: named(reader, found.namespaces, "namespaces", |text| text.try_into()),
        tenants: named(reader, found.tenants, "tenants", |text| text.try_into()),
        timeout: period(reader, found.timeout, "timeout", default.timeout),
        retries: small(reader, found.retries, "retries", default.retries, 0),
        on_failure: found.on_failure.map_or(OnFailure::Refuse, |found| found.value),
        max_in_flight: count(reader, found.max_in_flight, "max_in_flight", default.max_in_flight, 1),
        queue: count(reader, found.queue, "queue", default.queue, 1),
        queue_bytes: bytes(reader, found.queue_bytes, "queue_bytes", default.queue_bytes).value,
        breaker_calls: small(reader, found.breaker_calls, "breaker_calls", default.breaker_calls, 1),
        breaker_pause: period(reader, found.breaker_pause, "breaker_pause", default.breaker_pause),
        ..default
    })
}

fn plain<T>(found: Option<At<List<T>>>) -> Vec<T> {
    found.map(|found| found.value.0).unwrap_or_default().into_iter().map(|found| found.value).collect()
}

/// Names of one kind.
fn named<T>(
    reader: &Reader<'_>,
    found: Option<At<List<String>>>,
    key: &str,
    read: impl Fn(&str) -> Result<T, InvalidName>,
) -> Vec<T> {
    let found = found.map(|found| found.value.0).unwrap_or_default();
    let each = |At { value, place }: At<String>| {
        read(&value).map_err(|fault| reader.problem(place, format!("{value:?} in {key:?} {fault}"))).ok()
    };
    found.into_iter().filter_map(each).collect()
}
