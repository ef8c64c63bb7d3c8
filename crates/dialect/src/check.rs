//! From a definition to a dialect: what is wrong is collected, all of it.

use std::collections::HashMap;

use tidegate_types::{Class, EventName, InvalidStatus, RoomName, Status};

use crate::definition::{Act, Definition, EventDefinition, JsonDefinition, Placed, Problem, Shape, StepDefinition};
use crate::dialect::{Emit, Event, Nonce, Presence, PresenceEvent, PresenceStep, Step};
use crate::facts::{Fact, Scene};
use crate::field::Fields;
use crate::template::{Json, Names, Text};

/// Names that clients of Socket.IO use themselves; they emit none and listen to none from a server.
const RESERVED: [&str; 6] =
    ["connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"];

/// Events of a dialect, and steps of an event: enough for any API, few enough for a slip to be noticed.
const MOST: usize = 256;

#[derive(Default)]
pub(crate) struct Compiler {
    pub problems: Vec<Problem>,
}

impl Compiler {
    fn problem(&mut self, place: usize, message: impl Into<String>) {
        self.problems.push(Problem { place, message: message.into() });
    }

    pub fn events(&mut self, definition: &Definition) -> HashMap<Box<str>, Event> {
        if definition.events.len() > MOST {
            let place = definition.events.first().map_or(0, |event| event.name.place);
            self.problem(place, format!("a dialect has at most {MOST} events"));
        }
        let mut events = HashMap::new();
        for event in &definition.events {
            let compiled = self.event(event);
            events.insert(event.name.value.as_str().into(), compiled);
        }
        for private in definition.private.iter().filter(|private| private.value.is_empty()) {
            self.problem(private.place, "\"private\" names beginnings of rooms; an empty one would be all rooms");
        }
        events
    }

    fn event(&mut self, event: &EventDefinition) -> Event {
        self.name(&event.name);
        let fields = event.payload.as_ref().map(|fields| {
            Fields::compile(fields, event.unknown_keys, &mut |place, message| {
                self.problems.push(Problem { place, message });
            })
        });
        let names = Names { scene: Scene::Event, fields: fields.as_ref() };
        let steps = self.steps(&event.steps, names, event.name.place);
        let ack = event.ack.as_ref().map(|ack| self.json(ack, names));
        let has_room = steps.iter().any(|step| match step {
            Step::Join(_) | Step::Leave(_) => true,
            Step::Emit(emit) => emit.room.is_some(),
            Step::Presence(_) => false,
        });
        if let (Some(ack), false) = (&ack, has_room)
            && ack.asks_for(Fact::Count)
        {
            self.problem(event.name.place, "the ack asks for {count}, but no step names a room whose it would be");
        }
        let names = Names { scene: Scene::Refusal, fields: fields.as_ref() };
        let refused_ack = event.refused_ack.as_ref().map(|ack| self.json(ack, names));
        let refused = event.refused.as_ref().map(|shape| self.shape(shape, names));
        let asks = |step: &Step| match step {
            Step::Emit(emit) => emit.data.as_ref().is_some_and(|data| data.asks_for(Fact::Id)),
            Step::Join(_) | Step::Leave(_) | Step::Presence(_) => false,
        };
        let needs_id = steps.iter().any(asks) || ack.as_ref().is_some_and(|ack| ack.asks_for(Fact::Id));
        Event {
            name: event.name.value.as_str().into(),
            fields,
            kinds: event.kinds.iter().map(|kind| kind.as_str().into()).collect(),
            steps,
            ack,
            refused_ack,
            refused,
            needs_id,
        }
    }

    pub fn connect(&mut self, definition: &Definition) -> Box<[Step]> {
        for step in &definition.connect {
            if let Act::Emit { class: Class::Recoverable | Class::Persistent, room: Some(_), .. } = &step.value {
                let message = "on connect nothing waits for a place in a room's order: take class = \"volatile\"";
                self.problem(step.place, message);
            }
        }
        self.steps(&definition.connect, Names { scene: Scene::Connect, fields: None }, 0)
    }

    pub fn disconnect(&mut self, definition: &Definition) -> Box<[Step]> {
        for step in &definition.disconnect {
            match &step.value {
                Act::Emit { class: Class::Volatile, .. } => {}
                Act::Emit { .. } => {
                    let message =
                        "on disconnect nothing waits for a place in a room's order: take class = \"volatile\"";
                    self.problem(step.place, message);
                }
                Act::Join { .. } | Act::Leave { .. } | Act::Presence { .. } => {
                    self.problem(
                        step.place,
                        "on disconnect only \"emit\" makes sense: the socket leaves all its rooms",
                    );
                }
            }
        }
        self.steps(&definition.disconnect, Names { scene: Scene::Disconnect, fields: None }, 0)
    }

    pub fn presence(&mut self, definition: &Definition) -> Presence {
        let presence = &definition.presence;
        let mut event = |shape: &Option<Shape>, scene| {
            let (event, data) = self.shape(shape.as_ref()?, Names { scene, fields: None });
            Some(PresenceEvent { event, data })
        };
        Presence {
            rooms: presence.rooms.as_str().into(),
            join: event(&presence.join, Scene::Joined),
            leave: event(&presence.leave, Scene::Left),
            update: event(&presence.update, Scene::Updated),
        }
    }

    pub fn refusal(&mut self, definition: &Definition) -> (Option<(EventName, Json)>, Json, Json) {
        let names = Names { scene: Scene::AnyRefusal, fields: None };
        let refusal = &definition.refusal;
        let data = self.json(&refusal.data, names);
        let event = refusal.event.as_ref().map(|event| (self.name(event), data.clone()));
        (event, data, self.json(&refusal.ack, names))
    }

    fn steps(&mut self, steps: &[StepDefinition], names: Names<'_>, place: usize) -> Box<[Step]> {
        if steps.len() > MOST {
            self.problem(place, format!("there are at most {MOST} steps"));
        }
        steps.iter().map(|step| self.step(step, names)).collect()
    }

    fn step(&mut self, step: &StepDefinition, names: Names<'_>) -> Step {
        match &step.value {
            Act::Join { room } => Step::Join(self.room(room, names)),
            Act::Leave { room } => Step::Leave(self.room(room, names)),
            Act::Presence { status, metadata, current_activity, custom_status } => {
                let text = self.text(status, names);
                if let Some(fault) = text.fixed().and_then(|fixed| fixed.parse::<Status>().err()) {
                    let InvalidStatus = fault;
                    self.problem(status.place, format!("{:?}: a {fault}", status.value));
                }
                let metadata = metadata.as_ref().map(|metadata| {
                    if !matches!(metadata, JsonDefinition::Object(_) | JsonDefinition::Text(_)) {
                        self.problem(step.place, "\"metadata\" must be an object");
                    }
                    self.json(metadata, names)
                });
                let mut said = |said: &Option<Placed<String>>| said.as_ref().map(|said| self.text(said, names));
                let (current_activity, custom_status) = (said(current_activity), said(custom_status));
                Step::Presence(PresenceStep { status: text, metadata, current_activity, custom_status })
            }
            Act::Emit { event, room, others, members_only, data, class, nonce, nonce_window_ms } => {
                let on_disconnect = names.scene == Scene::Disconnect;
                if room.is_none() && !on_disconnect && (*others || nonce.is_some()) {
                    self.problem(
                        step.place,
                        "\"others\" and \"nonce\" are for rooms: name the \"room\", or leave them out",
                    );
                }
                if *others && *class != Class::Volatile {
                    let message = "what is replayed cannot leave out its sender: with others = true, take class = \
                                   \"volatile\"";
                    self.problem(step.place, message);
                }
                if nonce.is_some() && *class == Class::Volatile {
                    let message = "a volatile message has no place in the room's order and cannot be known again: leave \
                                   out \"nonce\", or take class = \"recoverable\"";
                    self.problem(step.place, message);
                }
                let data = data.as_ref().map(|data| self.json(data, names));
                let needs_count = data.as_ref().is_some_and(|data| data.asks_for(Fact::Count));
                if needs_count && room.is_none() && !on_disconnect {
                    self.problem(step.place, "{count} is that of a room: name the \"room\" to send to");
                }
                Step::Emit(Emit {
                    event: self.name(event),
                    room: room.as_ref().map(|room| self.room(room, names)),
                    others: *others,
                    members_only: *members_only,
                    data,
                    class: *class,
                    nonce: nonce
                        .as_ref()
                        .map(|nonce| Nonce { text: self.text(nonce, names), window_ms: *nonce_window_ms }),
                    needs_count,
                })
            }
        }
    }

    fn shape(&mut self, shape: &Shape, names: Names<'_>) -> (EventName, Json) {
        (self.name(&shape.event), self.json(&shape.data, names))
    }

    fn name(&mut self, event: &Placed<String>) -> EventName {
        if RESERVED.contains(&event.value.as_str()) {
            self.problem(event.place, format!("{:?} is an event of Socket.IO itself; take another name", event.value));
        }
        EventName::try_from(event.value.as_str()).unwrap_or_else(|fault| {
            self.problem(event.place, format!("the name of an event {fault}"));
            unnamed()
        })
    }

    fn room(&mut self, room: &Placed<String>, names: Names<'_>) -> Text {
        let text = self.text(room, names);
        if let Some(fault) = text.fixed().and_then(|fixed| RoomName::try_from(fixed).err()) {
            self.problem(room.place, format!("the name of a room {fault}"));
        }
        for source in text.sources() {
            let volatile = [Fact::Now, Fact::NowMs, Fact::Count, Fact::Id];
            if let Some(fact) = volatile.into_iter().find(|fact| source == crate::template::Source::Fact(*fact)) {
                let name = fact.name();
                self.problem(room.place, format!("{{{name}}} is another each time; a room needs a name that stays"));
            }
        }
        text
    }

    fn text(&mut self, text: &Placed<String>, names: Names<'_>) -> Text {
        Text::parse(&text.value, names).unwrap_or_else(|(at, message)| {
            self.problem(text.place + at, message);
            Text::nothing()
        })
    }

    fn json(&mut self, json: &JsonDefinition, names: Names<'_>) -> Json {
        Json::compile(json, names, &mut |place, message| self.problems.push(Problem { place, message }))
    }
}

/// Stands in for a name that has its problem already.
#[allow(clippy::expect_used, reason = "the name is a literal")]
fn unnamed() -> EventName {
    EventName::try_from("unnamed").expect("a literal of letters is a name")
}
