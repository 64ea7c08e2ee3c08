//! What a line of the table is made of: the conversion of registers into arguments, the route of entry, the coverage. Used by `table!` alone.

macro_rules! shim {
    ($f:path, 0) => {{
        extern "C" fn shim(task: &Task, frame: &mut TrapFrame) -> isize {
            // SAFETY: the entry code passes the running thread's task.
            let ctx = &mut unsafe { Ctx::new(task, frame) };
            to_register($f(ctx))
        }
        shim
    }};
    ($f:path, 1) => {{
        extern "C" fn shim(task: &Task, frame: &mut TrapFrame) -> isize {
            // SAFETY: the entry code passes the running thread's task.
            let ctx = &mut unsafe { Ctx::new(task, frame) };
            let a = ctx.arg::<_, 0>();
            to_register($f(ctx, a))
        }
        shim
    }};
    ($f:path, 2) => {{
        extern "C" fn shim(task: &Task, frame: &mut TrapFrame) -> isize {
            // SAFETY: the entry code passes the running thread's task.
            let ctx = &mut unsafe { Ctx::new(task, frame) };
            let (a, b) = (ctx.arg::<_, 0>(), ctx.arg::<_, 1>());
            to_register($f(ctx, a, b))
        }
        shim
    }};
    ($f:path, 3) => {{
        extern "C" fn shim(task: &Task, frame: &mut TrapFrame) -> isize {
            // SAFETY: the entry code passes the running thread's task.
            let ctx = &mut unsafe { Ctx::new(task, frame) };
            let (a, b, c) = (ctx.arg::<_, 0>(), ctx.arg::<_, 1>(), ctx.arg::<_, 2>());
            to_register($f(ctx, a, b, c))
        }
        shim
    }};
    ($f:path, 4) => {{
        extern "C" fn shim(task: &Task, frame: &mut TrapFrame) -> isize {
            // SAFETY: the entry code passes the running thread's task.
            let ctx = &mut unsafe { Ctx::new(task, frame) };
            let (a, b, c, d) = (ctx.arg::<_, 0>(), ctx.arg::<_, 1>(), ctx.arg::<_, 2>(), ctx.arg::<_, 3>());
            to_register($f(ctx, a, b, c, d))
        }
        shim
    }};
    ($f:path, 5) => {{
        extern "C" fn shim(task: &Task, frame: &mut TrapFrame) -> isize {
            // SAFETY: the entry code passes the running thread's task.
            let ctx = &mut unsafe { Ctx::new(task, frame) };
            let (a, b, c, d) = (ctx.arg::<_, 0>(), ctx.arg::<_, 1>(), ctx.arg::<_, 2>(), ctx.arg::<_, 3>());
            let e = ctx.arg::<_, 4>();
            to_register($f(ctx, a, b, c, d, e))
        }
        shim
    }};
    ($f:path, 6) => {{
        extern "C" fn shim(task: &Task, frame: &mut TrapFrame) -> isize {
            // SAFETY: the entry code passes the running thread's task.
            let ctx = &mut unsafe { Ctx::new(task, frame) };
            let (a, b, c, d) = (ctx.arg::<_, 0>(), ctx.arg::<_, 1>(), ctx.arg::<_, 2>(), ctx.arg::<_, 3>());
            let (e, f) = (ctx.arg::<_, 4>(), ctx.arg::<_, 5>());
            to_register($f(ctx, a, b, c, d, e, f))
        }
        shim
    }};
}

macro_rules! route {
    () => {
        Route::Full
    };
    (quiet) => {
        Route::Quiet
    };
    (whole) => {
        Route::Whole
    };
    (brief $function:ident) => {
        if brief::PROVEN { Route::Brief } else { Route::Full }
    };
}

macro_rules! brief_handler {
    (brief $function:ident) => {
        brief::$function
    };
    ($($route:ident)?) => {
        unknown
    };
}

macro_rules! coverage {
    (full) => {
        Coverage::Full
    };
    (partial($text:literal)) => {
        Coverage::Partial($text)
    };
}
