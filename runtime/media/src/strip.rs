//! Rows of pictures with labels, as one picture.
