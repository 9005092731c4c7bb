//! wasi:config from the environment variables of the container, and wasi:keyvalue in the memory of the node, one store per pod.
//!
//! All containers of a pod share the store, which survives container restarts and ends with the pod. The pairs are charged to the pod's
//! memory account and have a separate limit. wasmtime-wasi-keyvalue is not used, because each of its buckets is a copy, so that instances
//! do not see each other's changes, and because it has no limit.

use crate::{
    pairs::{Pair, Table},
    view::{Here, View},
};
use wasmtime::component::{Linker, Resource};

#[allow(missing_docs, unreachable_pub, clippy::all, clippy::too_many_lines)]
mod bindings {
    wasmtime::component::bindgen!({
        inline: r#"
            package sampan:host;

            world imports {
                import wasi:config/store@0.2.0-rc.1;
                import wasi:keyvalue/store@0.2.0-draft;
                import wasi:keyvalue/atomics@0.2.0-draft;
                import wasi:keyvalue/batch@0.2.0-draft;
            }

            package wasi:config@0.2.0-rc.1 {
                interface store {
                    variant error {
                        upstream(string),
                        io(string),
                    }
                    get: func(key: string) -> result<option<string>, error>;
                    get-all: func() -> result<list<tuple<string, string>>, error>;
                }
            }

            package wasi:keyvalue@0.2.0-draft {
                interface store {
                    variant error {
                        no-such-store,
                        access-denied,
                        other(string),
                    }
                    record key-response {
                        keys: list<string>,
                        cursor: option<u64>,
                    }
                    open: func(identifier: string) -> result<bucket, error>;
                    resource bucket {
                        get: func(key: string) -> result<option<list<u8>>, error>;
                        set: func(key: string, value: list<u8>) -> result<_, error>;
                        delete: func(key: string) -> result<_, error>;
                        exists: func(key: string) -> result<bool, error>;
                        list-keys: func(cursor: option<u64>) -> result<key-response, error>;
                    }
                }
                interface atomics {
                    use store.{bucket, error};
                    increment: func(bucket: borrow<bucket>, key: string, delta: u64) -> result<u64, error>;
                }
                interface batch {
                    use store.{bucket, error};
                    get-many: func(bucket: borrow<bucket>, keys: list<string>) -> result<list<option<tuple<string, list<u8>>>>, error>;
                    set-many: func(bucket: borrow<bucket>, key-values: list<tuple<string, list<u8>>>) -> result<_, error>;
                    delete-many: func(bucket: borrow<bucket>, keys: list<string>) -> result<_, error>;
                }
            }
        "#,
        imports: { default: trappable },
        with: { "wasi:keyvalue/store.bucket": super::Bucket },
    });
}

use bindings::wasi::{
    config::store as config,
    keyvalue::{
        atomics, batch,
        store::{self, Error, KeyResponse},
    },
};

/// Adds the interfaces to a linker.
pub(crate) fn add_to_linker<T: Send + 'static>(
    linker: &mut Linker<T>,
    view: for<'a> fn(&'a mut T) -> View<'a>,
) -> wasmtime::Result<()> {
    config::add_to_linker::<T, Here>(linker, view)?;
    store::add_to_linker::<T, Here>(linker, view)?;
    atomics::add_to_linker::<T, Here>(linker, view)?;
    batch::add_to_linker::<T, Here>(linker, view)
}

/// A guest's handle to the store of its pod.
#[allow(unreachable_pub, reason = "the bindings re-export it")]
pub struct Bucket;

type Answer<T> = wasmtime::Result<Result<T, Error>>;

impl View<'_> {
    /// Calls a function with the locked store.
    ///
    /// # Errors
    /// The handle is not a bucket of this instance.
    fn pairs<T>(&mut self, bucket: &Resource<Bucket>, call: impl FnOnce(&mut Table) -> Result<T, String>) -> Answer<T> {
        self.table.get(bucket)?;
        Ok(call(&mut self.pairs.lock()).map_err(Error::Other))
    }
}

impl config::Host for View<'_> {
    fn get(&mut self, key: String) -> wasmtime::Result<Result<Option<String>, config::Error>> {
        let variable = self.env.iter().find(|(name, _)| *name == key);
        Ok(Ok(variable.map(|(_, value)| value.clone())))
    }

    fn get_all(&mut self) -> wasmtime::Result<Result<Vec<(String, String)>, config::Error>> {
        Ok(Ok(self.env.to_vec()))
    }
}

impl store::Host for View<'_> {
    /// A pod has one store. Its identifier is `default` or empty.
    fn open(&mut self, identifier: String) -> Answer<Resource<Bucket>> {
        if !["", "default"].contains(&identifier.as_str()) {
            return Ok(Err(Error::NoSuchStore));
        }
        Ok(Ok(self.table.push(Bucket)?))
    }
}

impl store::HostBucket for View<'_> {
    fn get(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<Option<Vec<u8>>> {
        self.pairs(&bucket, |table| Ok(table.get(&key)))
    }

    fn set(&mut self, bucket: Resource<Bucket>, key: String, value: Vec<u8>) -> Answer<()> {
        self.pairs(&bucket, |table| table.set(key, value))
    }

    fn delete(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<()> {
        self.pairs(&bucket, |table| {
            table.delete(&key);
            Ok(())
        })
    }

    fn exists(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<bool> {
        self.pairs(&bucket, |table| Ok(table.has(&key)))
    }

    fn list_keys(&mut self, bucket: Resource<Bucket>, cursor: Option<u64>) -> Answer<KeyResponse> {
        self.pairs(&bucket, |table| {
            let (keys, cursor) = table.keys(cursor.unwrap_or(0));
            Ok(KeyResponse { keys, cursor })
        })
    }

    fn drop(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
        self.table.delete(bucket)?;
        Ok(())
    }
}

impl atomics::Host for View<'_> {
    fn increment(&mut self, bucket: Resource<Bucket>, key: String, delta: u64) -> Answer<u64> {
        self.pairs(&bucket, |table| table.increment(key, delta))
    }
}

impl batch::Host for View<'_> {
    fn get_many(&mut self, bucket: Resource<Bucket>, keys: Vec<String>) -> Answer<Vec<Option<Pair>>> {
        self.pairs(&bucket, |table| table.get_many(keys))
    }

    /// Stops at the first pair that fails. The pairs before it remain set.
    fn set_many(&mut self, bucket: Resource<Bucket>, pairs: Vec<Pair>) -> Answer<()> {
        self.pairs(&bucket, |table| pairs.into_iter().try_for_each(|(key, value)| table.set(key, value)))
    }

    fn delete_many(&mut self, bucket: Resource<Bucket>, keys: Vec<String>) -> Answer<()> {
        self.pairs(&bucket, |table| {
            keys.iter().for_each(|key| table.delete(key));
            Ok(())
        })
    }
}
