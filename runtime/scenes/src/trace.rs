//! Where things in a scene are, beside how they look: what moved where between two moments, exactly.

use ndarray::{Array2, Array3};

use crate::look::{Form, Look};
use crate::math::{Vec2, unit, vec2};

/// Something painted: the outline that was filled, and where.
#[derive(Clone, Debug)]
pub(crate) struct Stroke {
    form: Form,
    look: Look,
    at: Vec2,
    angle_rad: f64,
    /// The number of the thing that it is, or is a part of.
    thing: usize,
}

impl Stroke {
    pub(crate) fn new(form: &Form, look: &Look, at: Vec2, angle_rad: f64, thing: usize) -> Self {
        Self { form: form.clone(), look: *look, at, angle_rad, thing }
    }

    pub(crate) fn thing(&self) -> usize {
        self.thing
    }

    /// Both are one thing.
    pub(crate) fn fix_to(&mut self, other: &Stroke) {
        self.thing = other.thing;
    }

    /// A point of the picture in the form's own coordinates.
    fn local(&self, point: Vec2) -> Vec2 {
        (point - self.at).turned(unit(-self.angle_rad))
    }

    fn covers(&self, point: Vec2) -> bool {
        let local = self.local(point);
        self.form.distance(local.x as f32, local.y as f32) <= 0.0
    }

    /// Whether both are the same form: colours are drawn at random, so that only parts of one machine share theirs.
    fn same_form(&self, other: &Stroke) -> bool {
        self.look.colour == other.look.colour && self.form.reach() == other.form.reach()
    }

    fn unmoved(&self, other: &Stroke) -> bool {
        self.same_form(other) && self.at == other.at && self.angle_rad == other.angle_rad
    }
}

/// A moment of a scene: what is where. Lengths in frame heights.
#[derive(Clone, Debug)]
pub struct Trace {
    pub(crate) width: usize,
    pub(crate) height: usize,
    /// The frame's top left corner on the ground.
    pub(crate) corner: Vec2,
    /// From the back to the front.
    pub(crate) strokes: Vec<Stroke>,
}

/// How a thing comes to be somewhere else: it turns about the frame's middle, then shifts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Way {
    /// From x towards y, in radians.
    pub turn_rad: f64,
    /// In pixels, x to the right, y down.
    pub shift: [f64; 2],
}

impl Trace {
    /// The moment at which everything has gone such ways: first the ground, which only shifts, then things as [`Self::things`]
    /// numbers them. What has none stays.
    pub fn moved(&self, ways: &[Way]) -> Trace {
        let pixel = 1.0 / self.height as f64;
        let middle = vec2(self.width as f64, self.height as f64) * (0.5 * pixel);
        let shift = |way: &Way| vec2(way.shift[0], way.shift[1]) * pixel;
        let mut moved = self.clone();
        if let Some(ground) = ways.first() {
            moved.corner = self.corner - shift(ground);
        }
        for stroke in &mut moved.strokes {
            let Some(way) = ways.get(stroke.thing) else { continue };
            stroke.at = (stroke.at - middle).turned(unit(way.turn_rad)) + middle + shift(way);
            stroke.angle_rad += way.turn_rad;
        }
        moved
    }

    /// For every `stride`-th pixel of this moment along both axes, how far away what is there is at the `other` one,
    /// x then y in pixels, (height / stride, width / stride, 2). NaN where it cannot be seen then: it is hidden or outside
    /// of the frame, or one of several things that look the same. Soft shadows are taken for what they fall on.
    pub fn displacements_to(&self, other: &Trace, stride: usize) -> Array3<f32> {
        let scale = self.height as f64;
        let other_of: Vec<Option<usize>> =
            self.strokes.iter().map(|stroke| self.partner(stroke, other)).collect();
        let (rows, columns) = (self.height / stride, self.width / stride);
        let mut found = Array3::from_elem((rows, columns, 2), f32::NAN);
        for ((row, column), mut pixel) in ndarray::indices((rows, columns)).into_iter().zip(found.rows_mut())
        {
            let point = self.point((row, column), stride);
            let top = self.top(point);
            let source = match top {
                None => Some(point + self.corner - other.corner),
                Some(index) => other_of[index].map(|partner| {
                    let before = &other.strokes[partner];
                    before.at + self.strokes[index].local(point).turned(unit(before.angle_rad))
                }),
            };
            let Some(source) = source else { continue };
            let inside = (0.0..scale.recip() * self.width as f64).contains(&source.x)
                && (0.0..1.0).contains(&source.y);
            if inside && other.top(source) == top.and_then(|index| other_of[index]) {
                pixel[0] = ((source.x - point.x) * scale) as f32;
                pixel[1] = ((source.y - point.y) * scale) as f32;
            }
        }
        found
    }

    /// What every `stride`-th pixel of this moment along both axes belongs to, (height / stride, width / stride): things are
    /// numbered from 1 on, from the back to the front; 0 is the ground. What is fixed to each other is one thing.
    pub fn things(&self, stride: usize) -> Array2<usize> {
        let shape = (self.height / stride, self.width / stride);
        let thing = |index: usize| self.strokes[index].thing;
        Array2::from_shape_fn(shape, |place| self.top(self.point(place, stride)).map_or(0, thing))
    }

    /// The same by the numbers that things have at the `other` moment; `None` for what is new since.
    pub fn things_as_of(&self, other: &Trace, stride: usize) -> Array2<Option<usize>> {
        let number = |(index, stroke): (usize, &Stroke)| {
            let kept = || other.strokes.get(index).filter(|other| stroke.same_form(other));
            let partner = self.partner(stroke, other).map(|index| &other.strokes[index]);
            partner.or_else(kept).map(Stroke::thing)
        };
        let numbers: Vec<Option<usize>> = self.strokes.iter().enumerate().map(number).collect();
        let shape = (self.height / stride, self.width / stride);
        Array2::from_shape_fn(shape, |place| {
            self.top(self.point(place, stride)).map_or(Some(0), |index| numbers[index])
        })
    }

    /// The middle of the `stride` x `stride` pixels at a place, row and column.
    fn point(&self, (row, column): (usize, usize), stride: usize) -> Vec2 {
        let at = |index: usize| (index * stride) as f64 + stride as f64 / 2.0;
        vec2(at(column), at(row)) * (1.0 / self.height as f64)
    }

    /// The frontmost stroke at a point; `None` where the ground shows.
    fn top(&self, point: Vec2) -> Option<usize> {
        self.strokes.iter().rposition(|stroke| stroke.covers(point))
    }

    /// The same thing at another moment, where it is known to be the same.
    fn partner(&self, stroke: &Stroke, other: &Trace) -> Option<usize> {
        let alike = |strokes: &[Stroke]| strokes.iter().filter(|other| stroke.same_form(other)).count();
        if (alike(&self.strokes), alike(&other.strokes)) == (1, 1) {
            return other.strokes.iter().position(|other| stroke.same_form(other));
        }
        other.strokes.iter().position(|other| stroke.unmoved(other))
    }
}
