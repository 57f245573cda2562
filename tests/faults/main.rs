//! Faults thrown at running meshes.
