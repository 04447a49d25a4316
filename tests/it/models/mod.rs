//! Models by name, through the router.

mod lifecycle;
mod limits;
mod settings;
mod validation;
mod windows;
