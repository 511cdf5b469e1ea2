//! Objects as compressed JSON. Those of a kind say mostly the same: of each is kept what it says otherwise than the first one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use kube::ResourceExt;
use kube::core::DynamicObject;
use lz4_flex::block::{compress_prepend_size_with_dict, decompress_size_prepended_with_dict};

use crate::controller::objects::Kind;
use crate::names::{Component, component_of};

/// The first object of each kind, and of each component.
#[derive(Debug, Clone, Default)]
pub(super) struct Templates(Arc<Mutex<HashMap<Which, Arc<[u8]>>>>);

type Which = (Kind, Option<Component>);

/// An object as it was last.
#[derive(PartialEq)]
pub(super) struct Kept {
    /// Its version, which the API server counts up; that of its end when it is gone.
    pub(super) version: u64,
    content: Option<Content>,
}

struct Content {
    template: Arc<[u8]>,
    json: Box<[u8]>,
}

impl Templates {
    pub(super) fn keep(&self, kind: Kind, object: &DynamicObject) -> Kept {
        // What came out of JSON goes back into it.
        let text = serde_json::to_vec(object).unwrap_or_default();
        let template = {
            let mut templates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let template = templates.entry((kind, component_of(object.labels())));
            Arc::clone(template.or_insert_with(|| text.as_slice().into()))
        };
        let json = compress_prepend_size_with_dict(&text, &template).into();
        Kept { version: version_of(object), content: Some(Content { template, json }) }
    }
}

impl Kept {
    /// One that ended with this version: what was said of it before may be heard later.
    pub(super) fn gone(version: u64) -> Self {
        Self { version, content: None }
    }

    pub(super) fn is_there(&self) -> bool {
        self.content.is_some()
    }

    pub(super) fn read(&self) -> Option<DynamicObject> {
        let Content { template, json } = self.content.as_ref()?;
        let text = decompress_size_prepended_with_dict(json, template).ok()?;
        serde_json::from_slice(&text).ok()
    }
}

impl PartialEq for Content {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.template, &other.template) && self.json == other.json
    }
}

/// The version of an object; 0 when it has none.
pub(super) fn version_of(object: &impl ResourceExt) -> u64 {
    object.resource_version().and_then(|version| version.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use kube::core::ApiResource;
    use serde_json::json;

    use super::*;

    fn config_map(number: usize) -> DynamicObject {
        let text = (0..200).map(|line| line.to_string()).collect::<Vec<_>>().join(" ");
        let resource = ApiResource::erase::<k8s_openapi::api::core::v1::ConfigMap>(&());
        let data = json!({"data": {"text": text, "number": number}});
        DynamicObject::new(&number.to_string(), &resource).data(data)
    }

    #[test]
    fn objects_that_say_mostly_the_same_take_little_and_are_read_as_they_are() {
        let templates = Templates::default();
        for number in 0..100 {
            let object = config_map(number);
            let kept = templates.keep(Kind::ConfigMap, &object);
            assert_eq!(kept.read(), Some(object.clone()));
            let length = kept.content.as_ref().unwrap().json.len();
            assert!(length < 100, "{length}");
            assert!(kept == templates.keep(Kind::ConfigMap, &object));
            assert!(kept != templates.keep(Kind::ConfigMap, &config_map(number + 1)));
        }
    }
}
