//! Closed sets of words: each is one enum of the model, and from its words come the reader, the JSON Schema and what
//! the effective config prints.

macro_rules! words {
    ($($(#[doc = $doc:literal])+ $visibility:vis $name:ident {
        $(#[doc = $first_doc:literal])+ $first:ident = $first_word:literal,
        $($(#[doc = $word_doc:literal])+ $variant:ident = $word:literal,)*
    })+) => {$(
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        $visibility enum $name {
            $(#[doc = $first_doc])+
            $first,
            $($(#[doc = $word_doc])+ $variant,)*
        }

        impl $name {
            /// As in the file.
            #[allow(dead_code, reason = "of some sets only the reader knows the words")]
            pub const fn as_str(self) -> &'static str {
                match self {
                    Self::$first => $first_word,
                    $(Self::$variant => $word,)*
                }
            }
        }

        impl $crate::reader::Value for $name {
            const WANTED: &'static str = concat!("one of \"", $first_word, "\"", $(", \"", $word, "\"",)*);

            fn read(
                reader: &$crate::reader::Reader<'_>,
                value: &toml::Spanned<toml::de::DeValue<'_>>,
                site: &$crate::reader::Site,
            ) -> Option<Self> {
                reader.parse(value, site, |text| match text {
                    $first_word => Ok(Self::$first),
                    $($word => Ok(Self::$variant),)*
                    _ => {
                        let hint = $crate::text::suggest(text, [$first_word, $($word,)*]);
                        Err(format!("must be {}{hint}", <Self as $crate::reader::Value>::WANTED))
                    }
                })
            }
        }

        impl schemars::JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "enum": [$first_word, $($word,)*] })
            }
        }
    )+};
}

pub(crate) use words;
