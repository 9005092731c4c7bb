//! Parts of points in time and of lengths of time.

use super::Implementation;
use crate::{
    budget::{Budget, Error},
    value::Value,
};
use jiff::civil::DateTime;

pub(super) fn implementation(name: &str) -> Option<Implementation> {
    Some(match name {
        "getFullYear" => |args, budget| part(args, budget, |at| at.year().into(), None),
        "getMonth" => |args, budget| part(args, budget, |at| i64::from(at.month()) - 1, None),
        "getDayOfYear" => |args, budget| part(args, budget, |at| i64::from(at.day_of_year()) - 1, None),
        "getDayOfMonth" => |args, budget| part(args, budget, |at| i64::from(at.day()) - 1, None),
        "getDate" => |args, budget| part(args, budget, |at| at.day().into(), None),
        "getDayOfWeek" => |args, budget| part(args, budget, |at| at.weekday().to_sunday_zero_offset().into(), None),
        "getHours" => |args, budget| part(args, budget, |at| at.hour().into(), Some(3_600_000_000_000)),
        "getMinutes" => |args, budget| part(args, budget, |at| at.minute().into(), Some(60_000_000_000)),
        "getSeconds" => |args, budget| part(args, budget, |at| at.second().into(), Some(1_000_000_000)),
        "getMilliseconds" => |args, budget| part(args, budget, |at| at.millisecond().into(), Some(1_000_000)),
        _ => return None,
    })
}

/// A part of a point in time, or how often a unit is in a length of time.
fn part<'a>(
    args: &[Value<'a>],
    budget: &mut Budget<'_>,
    of: fn(DateTime) -> i64,
    unit: Option<i64>,
) -> Result<Value<'a>, Error> {
    match (args, unit) {
        ([Value::Timestamp(stamp)], _) => stamp.civil(None).map(|at| Value::Int(of(at))).map_err(Error::new),
        ([Value::Timestamp(stamp), Value::String(zone)], _) => {
            // The table of a zone is read each time.
            budget.work(2000)?;
            stamp.civil(Some(zone)).map(|at| Value::Int(of(at))).map_err(Error::new)
        }
        ([Value::Duration(nanos)], Some(unit)) => Ok(Value::Int(nanos / unit)),
        _ => Err(Error::NO_SUCH_OVERLOAD),
    }
}
