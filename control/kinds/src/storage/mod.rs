//! `storage.k8s.io`: StorageClass.

pub(crate) mod storageclass;
