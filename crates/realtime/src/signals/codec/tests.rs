use proptest::prelude::*;
use tidegate_types::RoomName;

use super::*;

fn name<T: for<'a> TryFrom<&'a str, Error = InvalidName> + std::fmt::Debug>() -> impl Strategy<Value = T> {
    "[a-zA-Z0-9:/é]{1,12}".prop_map(|text| T::try_from(text.as_str()).unwrap_or_else(|_| panic!("{text}")))
}

fn space() -> impl Strategy<Value = SpaceKey> {
    (name(), "/[a-z]{0,5}").prop_map(|(tenant, namespace)| SpaceKey {
        tenant,
        namespace: Namespace::try_from(namespace.as_str()).unwrap(),
    })
}

fn said() -> impl Strategy<Value = Said> {
    (name(), "\\PC{0,200}", prop::collection::vec(any::<Vec<u8>>().prop_map(Bytes::from), 0..3))
        .prop_map(|(event, data, attachments)| Said { event, data: data.into(), attachments: Arc::from(attachments) })
}

fn except() -> impl Strategy<Value = Option<Except>> {
    prop_oneof![
        Just(None),
        "[a-z]{1,20}".prop_map(|id| Some(Except::Socket(SocketId::from(id)))),
        name().prop_map(|user| Some(Except::User(user))),
    ]
}

fn terms() -> impl Strategy<Value = Option<Terms>> {
    let terms = (prop::option::of("\\PC{0,50}"), any::<bool>(), any::<bool>());
    prop::option::of(terms.prop_map(|(reason, reconnect, recover)| Terms { reason, reconnect, recover }))
}

fn signal() -> impl Strategy<Value = Signal> {
    let names = || prop::collection::vec(name(), 0..4);
    let deed = prop_oneof![
        (said(), any::<bool>()).prop_map(|(said, volatile)| FarDeed::Emit { said, volatile }),
        Just(FarDeed::Disconnect)
    ];
    let whom = prop_oneof![
        (name(), name()).prop_map(|(tenant, user)| Closed::User(tenant, user)),
        (space(), name()).prop_map(|(space, user)| Closed::UserIn(space, user)),
        "[a-z]{1,20}".prop_map(|id| Closed::Socket(SocketId::from(id))),
        any::<(u16, u32, u32)>().prop_map(|(shard, slot, generation)| Closed::Conn(ConnId {
            shard: ShardId(shard),
            slot,
            generation
        })),
    ];
    let revocation = prop_oneof![
        (name(), "[a-z]{1,20}", any::<Option<u64>>()).prop_map(|(tenant, id, until)| Revocation::Token {
            tenant,
            id: id.into(),
            until
        }),
        (name(), name(), any::<u64>(), any::<Option<u64>>())
            .prop_map(|(tenant, user, before, until)| { Revocation::User { tenant, user, before, until } }),
    ];
    prop_oneof![
        (said(), except(), any::<u64>()).prop_map(|(said, except, timestamp_ms)| Signal::Tell(Tell {
            said,
            except,
            timestamp_ms
        })),
        (space(), prop::option::of(names()), names(), deed).prop_map(|(space, rooms, but, deed)| Signal::Far(Far {
            space,
            rooms,
            but,
            deed
        })),
        (space(), prop::option::of(prop::collection::vec(name(), 0..4)), except(), said())
            .prop_map(|(space, users, except, said)| Signal::ToUsers(ToUsers { space, users, except, said })),
        (whom, terms()).prop_map(|(whom, terms)| Signal::Close(Close { whom, terms })),
        (space(), "[a-z]{1,20}", name()).prop_map(|(space, pid, user)| Signal::Supersede(Supersede {
            space,
            pid: pid.into(),
            user
        })),
        revocation.prop_map(Signal::Revoke),
        (space(), name(), name(), any::<bool>()).prop_map(|(space, user, room, join)| Signal::Move(Move {
            space,
            user,
            room,
            join
        })),
    ]
}

proptest! {
    #[test]
    fn a_signal_is_read_as_it_was_written(signal in signal()) {
        let bytes = signal.encode().unwrap();
        prop_assert_eq!(Signal::decode(&bytes), Ok(signal));
    }

    #[test]
    fn a_damaged_signal_is_refused(signal in signal(), at in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let mut bytes = signal.encode().unwrap().to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(Signal::decode(&Bytes::from(bytes)).is_err());
    }

    #[test]
    fn a_shortened_or_lengthened_signal_is_refused(signal in signal(), at in any::<prop::sample::Index>()) {
        let bytes = signal.encode().unwrap();
        prop_assert!(Signal::decode(&bytes.slice(..at.index(bytes.len()))).is_err());
        prop_assert!(Signal::decode(&Bytes::from([&bytes[..], b"x"].concat())).is_err());
    }

    #[test]
    fn bytes_of_whatever_kind_are_no_trouble(bytes in any::<Vec<u8>>(), kind in 0_u8..9) {
        let mut whole = vec![VERSION, kind, 0, 0, 0, 0];
        whole.extend_from_slice(&bytes);
        let sum = checksum(kind, &bytes);
        whole[2..HEAD].copy_from_slice(&sum);
        let _ = Signal::decode(&Bytes::from(whole));
        let _ = Signal::decode(&Bytes::from(bytes));
    }
}

fn small() -> Signal {
    let (tenant, id) = (TenantId::default_tenant(), Arc::from("j"));
    Signal::Revoke(Revocation::Token { tenant, id, until: None })
}

#[test]
fn another_version_is_told_from_damage() {
    let mut bytes = small().encode().unwrap().to_vec();
    bytes[0] = 2;
    assert_eq!(Signal::decode(&Bytes::from(bytes)), Err(BadSignal::Version(2)));
    assert_eq!(Signal::decode(&Bytes::new()), Err(BadSignal::Damaged));
    assert_eq!(Signal::decode(&Bytes::from_static(&[1, 6])), Err(BadSignal::Damaged));
}

#[test]
fn a_count_that_the_bytes_cannot_hold_is_refused_before_anything_is_made_for_it() {
    let mut out = Out { bytes: vec![VERSION, 2, 0, 0, 0, 0], fits: true };
    out.space(&SpaceKey { tenant: TenantId::default_tenant(), namespace: Namespace::root() });
    out.flag(true);
    out.number(9_999);
    let sum = checksum(2, &out.bytes[HEAD..]);
    out.bytes[2..HEAD].copy_from_slice(&sum);
    assert_eq!(Signal::decode(&Bytes::from(out.bytes)), Err(BadSignal::Field));
}

#[test]
fn a_connection_of_this_node_is_excepted_nowhere_else_and_what_is_too_large_is_not_sent() {
    let said = Said { event: "e".try_into().unwrap(), data: "1".into(), attachments: Arc::from([]) };
    let here = Except::Conn(ConnId { shard: ShardId(0), slot: 1, generation: 1 });
    let bytes = Signal::Tell(Tell { said: said.clone(), except: Some(here), timestamp_ms: 5 }).encode().unwrap();
    assert_eq!(Signal::decode(&bytes), Ok(Signal::Tell(Tell { said, except: None, timestamp_ms: 5 })));
    let rooms = vec![RoomName::try_from("r").unwrap(); MOST_NAMES + 1];
    let space = SpaceKey { tenant: TenantId::default_tenant(), namespace: Namespace::root() };
    let far = Far { space, rooms: Some(rooms), but: Vec::new(), deed: FarDeed::Disconnect };
    assert!(Signal::Far(far).encode().is_none());
}

#[test]
fn a_small_message_stays_small() {
    let said = Said { event: "typing".try_into().unwrap(), data: "{}".into(), attachments: Arc::from([]) };
    let bytes = Signal::Tell(Tell { said, except: None, timestamp_ms: 1_790_000_000_000 }).encode().unwrap();
    assert_eq!(bytes.len(), HEAD + 7 + 3 + 1 + 1 + 6);
}
