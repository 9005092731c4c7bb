//! `storage.k8s.io`: StorageClass and VolumeAttributesClass, and what CSI drivers and nodes say of themselves: CSIDriver, CSINode,
//! CSIStorageCapacity, VolumeAttachment.

pub(crate) mod csidriver;
pub(crate) mod csinode;
pub(crate) mod csistoragecapacity;
pub(crate) mod storageclass;
pub(crate) mod volumeattachment;
pub(crate) mod volumeattributesclass;

/// The group.
const GROUP: &str = "storage.k8s.io";
