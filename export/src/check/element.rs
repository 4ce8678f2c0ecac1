//! Element types of tensors, and sets of them.

use std::fmt;

/// An element type, of those that TensorRT has or that a graph for it may wrongly have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    F32,
    U8,
    I8,
    I32,
    I64,
    Bool,
    F16,
    F64,
    Bf16,
    /// E4M3.
    F8,
    U4,
    I4,
    /// E2M1.
    F4,
}

/// All of them: number in `TensorProto.DataType`, name, bits of a value.
const ELEMENTS: [(Element, i64, &str, usize); 13] = [
    (Element::F32, 1, "f32", 32),
    (Element::U8, 2, "u8", 8),
    (Element::I8, 3, "i8", 8),
    (Element::I32, 6, "i32", 32),
    (Element::I64, 7, "i64", 64),
    (Element::Bool, 9, "bool", 8),
    (Element::F16, 10, "f16", 16),
    (Element::F64, 11, "f64", 64),
    (Element::Bf16, 16, "bf16", 16),
    (Element::F8, 17, "f8e4m3", 8),
    (Element::U4, 21, "u4", 4),
    (Element::I4, 22, "i4", 4),
    (Element::F4, 23, "f4e2m1", 4),
];

impl Element {
    /// By its number in `TensorProto.DataType`.
    pub(super) fn of_onnx(number: i64) -> Option<Self> {
        ELEMENTS.iter().find(|(_, onnx, ..)| *onnx == number).map(|(element, ..)| *element)
    }

    /// Size of a value.
    pub(super) fn bits(self) -> usize {
        ELEMENTS[self as usize].3
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(ELEMENTS[*self as usize].2)
    }
}

/// A set of element types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Types(u16);

impl Types {
    pub(super) const fn of(elements: &[Element]) -> Self {
        Self(0).and(elements)
    }

    /// These and more.
    pub(super) const fn and(self, elements: &[Element]) -> Self {
        let (mut bits, mut i) = (self.0, 0);
        while i < elements.len() {
            bits |= 1 << elements[i] as u16;
            i += 1;
        }
        Self(bits)
    }

    pub(super) fn contains(self, element: Element) -> bool {
        self.0 & (1 << element as u16) != 0
    }
}

impl fmt::Display for Types {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names =
            ELEMENTS.iter().filter(|(element, ..)| self.contains(*element)).map(|(_, _, name, _)| *name);
        f.write_str(&names.collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_in_the_order_of_the_types() {
        for (index, (element, ..)) in ELEMENTS.iter().enumerate() {
            assert_eq!(*element as usize, index);
        }
        assert_eq!(Types::of(&[Element::I4, Element::F32]).to_string(), "f32, i4");
    }
}
