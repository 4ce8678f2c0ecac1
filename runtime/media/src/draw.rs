//! Lines, areas and words on a picture.
