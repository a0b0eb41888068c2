//! Presence as a property.
