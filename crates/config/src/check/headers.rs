use std::sync::Arc;

use crate::check::tokens::origin_of_production;
use crate::check::{delay, flag, template};
use crate::file;
use crate::reader::{At, FieldName, FieldValue, List, Method, OriginPattern, Reader, Templated};
use crate::{Cors, HeaderChanges, SecurityHeaders};

pub(super) fn request(reader: &Reader<'_>, found: file::RequestHeaders, has_jwt: bool) -> HeaderChanges {
    let lines = |found: Option<At<List<crate::reader::RequestLine>>>| {
        let found = found.map(|list| list.value.0).unwrap_or_default();
        lines(reader, found, has_jwt)
    };
    let remove = found.remove.map(|list| list.value.0).unwrap_or_default();
    HeaderChanges {
        set: lines(found.set),
        add: lines(found.add),
        remove: remove.into_iter().map(|name| name.value.0).collect(),
    }
}

pub(super) fn response(reader: &Reader<'_>, found: file::ResponseHeaders, has_jwt: bool) -> HeaderChanges {
    let lines = |found: Option<At<List<crate::reader::ResponseLine>>>| {
        let found = found.map(|list| list.value.0).unwrap_or_default();
        lines(reader, found, has_jwt)
    };
    let remove = found.remove.map(|list| list.value.0).unwrap_or_default();
    HeaderChanges {
        set: lines(found.set),
        add: lines(found.add),
        remove: remove.into_iter().map(|name| name.value.0).collect(),
    }
}

fn lines<T: Into<Templated>>(reader: &Reader<'_>, found: Vec<At<T>>, has_jwt: bool) -> Vec<Arc<str>> {
    found.into_iter().map(|line| template(reader, line, has_jwt)).collect()
}

pub(super) fn security(found: file::Security) -> SecurityHeaders {
    let default = SecurityHeaders::default();
    // An empty value leaves the header out; without the key it is the preset's.
    let value = |found: Option<At<FieldValue>>, preset: Option<Arc<str>>| match found {
        Some(given) => Some(given.value.0).filter(|text| !text.is_empty()),
        None => preset,
    };
    SecurityHeaders {
        hsts: value(found.hsts, default.hsts),
        csp: value(found.csp, default.csp),
        frame: value(found.frame, default.frame),
        nosniff: flag(found.nosniff, default.nosniff),
        referrer: value(found.referrer, default.referrer),
        xss: value(found.xss, default.xss),
    }
}

pub(super) fn cors(reader: &Reader<'_>, At { value: found, place }: At<file::Cors>) -> Cors {
    let default = Cors::default();
    let lacks_origins = found.lacks("origins");
    let origins: Vec<At<OriginPattern>> = match found.origins {
        Some(list) => {
            if list.value.1 == 0 {
                reader.problem(list.place, "\"origins\" must name at least one, such as \"https://app.example.org\"");
            }
            list.value.0
        }
        None => {
            if lacks_origins {
                reader.problem(place, "this section needs \"origins\", such as [\"https://app.example.org\"]");
            }
            Vec::new()
        }
    };
    let any = origins.iter().find(|origin| &*origin.value.0 == "*").map(|origin| origin.place);
    if let (Some(place), true) = (any, origins.len() > 1) {
        reader.problem(place, "\"*\" stands for every origin; it must be the only one");
    }
    if let (Some(_), Some(At { value: true, place })) = (any, &found.credentials) {
        let message =
            "\"credentials\" cannot go with the origin \"*\": every page could act as the user; name the origins";
        reader.problem(*place, message);
    }
    for origin in &origins {
        origin_of_production(reader, &origin.value.0, origin.place);
    }
    let methods =
        |found: Option<At<List<Method>>>| found.map(|list| list.value.0.into_iter().map(|name| name.value.0).collect());
    let fields = |found: Option<At<List<FieldName>>>| {
        found.into_iter().flat_map(|list| list.value.0).map(|name| name.value.0).collect()
    };
    Cors {
        origins: origins.into_iter().map(|origin| origin.value.0).collect(),
        methods: methods(found.methods).unwrap_or(default.methods),
        headers: fields(found.headers),
        expose: fields(found.expose),
        credentials: flag(found.credentials, default.credentials),
        max_age: delay(reader, found.max_age, "max_age", default.max_age),
    }
}
