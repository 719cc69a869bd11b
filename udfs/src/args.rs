//! Reading literals and column arguments, with good messages.
