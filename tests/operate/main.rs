//! What a wrong setup says.
