//! Makes nodes and keeps where they stand in the source.

use crate::ast::{ACCUMULATOR, Expr, Fold, Id, Kind, Literal, UNUSED};
use std::sync::Arc;

/// Gives out numbers for nodes.
#[derive(Default)]
pub(crate) struct Builder {
    pub(crate) offsets: Vec<u32>,
}

impl Builder {
    /// A new number for a node at an offset.
    pub(crate) fn id(&mut self, offset: u32) -> Id {
        self.offsets.push(offset);
        u32::try_from(self.offsets.len() - 1).unwrap_or(u32::MAX)
    }

    pub(crate) fn expr(&mut self, offset: u32, kind: Kind) -> Expr {
        Expr { id: self.id(offset), kind }
    }

    pub(crate) fn offset(&self, expr: &Expr) -> u32 {
        self.offsets.get(expr.id as usize).copied().unwrap_or(0)
    }

    pub(crate) fn literal(&mut self, offset: u32, literal: Literal) -> Expr {
        self.expr(offset, Kind::Literal(literal))
    }

    pub(crate) fn ident(&mut self, offset: u32, name: &str) -> Expr {
        self.expr(offset, Kind::Ident(name.into()))
    }

    pub(crate) fn accumulator(&mut self, offset: u32) -> Expr {
        self.ident(offset, ACCUMULATOR)
    }

    pub(crate) fn call(&mut self, offset: u32, function: &str, args: Vec<Expr>) -> Expr {
        self.expr(offset, Kind::Call { target: None, function: function.into(), args })
    }

    pub(crate) fn method(&mut self, offset: u32, function: &str, target: Expr, args: Vec<Expr>) -> Expr {
        self.expr(offset, Kind::Call { target: Some(Box::new(target)), function: function.into(), args })
    }

    /// `result`, in which `name` is `value`.
    pub(crate) fn bind(&mut self, offset: u32, name: &Arc<str>, value: Expr, result: Expr) -> Expr {
        let range = self.expr(offset, Kind::List(Vec::new()));
        let condition = self.literal(offset, Literal::Bool(false));
        let step = self.ident(offset, name);
        let fold =
            Fold { range, var: UNUSED.into(), var2: None, accu: name.clone(), init: value, condition, step, result };
        self.expr(offset, Kind::Fold(Box::new(fold)))
    }

    /// The same tree with numbers of its own.
    pub(crate) fn copy(&mut self, expr: &Expr) -> Expr {
        let mut copy = expr.clone();
        self.renumber(&mut copy);
        copy
    }

    fn renumber(&mut self, expr: &mut Expr) {
        expr.id = self.id(self.offset(expr));
        match &mut expr.kind {
            Kind::Literal(_) | Kind::Ident(_) => {}
            Kind::Select { operand, .. } => self.renumber(operand),
            Kind::Call { target, args, .. } => {
                target.iter_mut().for_each(|target| self.renumber(target));
                args.iter_mut().for_each(|arg| self.renumber(arg));
            }
            Kind::List(elements) => elements.iter_mut().for_each(|(element, _)| self.renumber(element)),
            Kind::Map(entries) => entries.iter_mut().for_each(|entry| {
                self.renumber(&mut entry.key);
                self.renumber(&mut entry.value);
            }),
            Kind::Struct { fields, .. } => fields.iter_mut().for_each(|field| self.renumber(&mut field.value)),
            Kind::Fold(fold) => {
                for part in [&mut fold.range, &mut fold.init, &mut fold.condition, &mut fold.step, &mut fold.result] {
                    self.renumber(part);
                }
            }
        }
    }
}
