//! Typed indices and the dense maps keyed by them.
//!
//! Ops, values and storages are numbered from zero in the order a graph records them. The number
//! is never used bare: an [`OpId`] cannot index a table of values.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Index, IndexMut};

/// An index type usable as a key of [`EntityMap`].
pub trait Entity: Copy + Eq + Ord {
    /// The entity at position `index`.
    ///
    /// # Panics
    /// When `index` does not fit the 32-bit representation; loaders check sizes before this.
    fn from_index(index: usize) -> Self;
    /// The position of this entity.
    fn index(self) -> usize;
}

macro_rules! entity {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        pub struct $name(u32);

        impl Entity for $name {
            #[inline]
            fn from_index(index: usize) -> Self {
                Self(u32::try_from(index).expect("more than 2^32 entities"))
            }
            #[inline]
            fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

entity!(
    /// One operation of a training step; displays as `op12`.
    OpId,
    "op"
);
entity!(
    /// One tensor, written once per computation of its op; displays as `v7`.
    ValueId,
    "v"
);
entity!(
    /// The buffer behind one or more values (views share one); displays as `s3`.
    StorageId,
    "s"
);

/// A dense map from an entity to `T`.
#[derive(Clone, PartialEq, Eq)]
pub struct EntityMap<K, T> {
    items: Vec<T>,
    key: PhantomData<K>,
}

impl<K: Entity, T> EntityMap<K, T> {
    /// An empty map.
    pub fn new() -> Self {
        Self::from_vec(Vec::new())
    }

    /// The map whose `i`-th entity has the `i`-th item.
    pub fn from_vec(items: Vec<T>) -> Self {
        Self { items, key: PhantomData }
    }

    /// A map of `len` copies of `item`.
    pub fn filled(item: T, len: usize) -> Self
    where
        T: Clone,
    {
        Self::from_vec(vec![item; len])
    }

    /// Number of entities.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Append `item` and return its entity.
    pub fn push(&mut self, item: T) -> K {
        let key = K::from_index(self.items.len());
        self.items.push(item);
        key
    }

    /// The item of `key`, or `None` when out of range.
    pub fn get(&self, key: K) -> Option<&T> {
        self.items.get(key.index())
    }

    /// The entities, in order.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = K> + ExactSizeIterator + use<K, T> {
        (0..self.items.len()).map(K::from_index)
    }

    /// Entities with their items, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (K, &T)> + ExactSizeIterator {
        self.items.iter().enumerate().map(|(i, t)| (K::from_index(i), t))
    }

    /// The items, in order.
    pub fn values(&self) -> std::slice::Iter<'_, T> {
        self.items.iter()
    }

    /// The items as a slice.
    pub fn as_slice(&self) -> &[T] {
        &self.items
    }
}

impl<K: Entity, T> Default for EntityMap<K, T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Entity + fmt::Debug, T: fmt::Debug> fmt::Debug for EntityMap<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: Entity, T> Index<K> for EntityMap<K, T> {
    type Output = T;
    #[inline]
    fn index(&self, key: K) -> &T {
        &self.items[key.index()]
    }
}

impl<K: Entity, T> IndexMut<K> for EntityMap<K, T> {
    #[inline]
    fn index_mut(&mut self, key: K) -> &mut T {
        &mut self.items[key.index()]
    }
}

impl<K: Entity, T> FromIterator<T> for EntityMap<K, T> {
    fn from_iter<I: IntoIterator<Item = T>>(iter: I) -> Self {
        Self::from_vec(iter.into_iter().collect())
    }
}
