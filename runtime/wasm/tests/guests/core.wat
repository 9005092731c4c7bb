;; A WASI preview 1 program. The first letter of its second argument says what it does:
;;   p  prints its arguments and environment, and the file `greeting` of its first mount      e7  exits with code 7
;;   t  traps      s  spins for ever      g  grows memory until it may not      f  floods its output
;;   c7 copies its input to its output and exits with code 7      w  copies as well and then waits for ever
(module
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ_sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_get" (func $environ (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 100) "greeting")
  (data (i32.const 120) "0123456789012345678901234567890123456789012345678901234567890123456789\n")

  (func $print (param $fd i32) (param $at i32) (param $length i32)
    (i32.store (i32.const 16) (local.get $at))
    (i32.store (i32.const 20) (local.get $length))
    (drop (call $fd_write (local.get $fd) (i32.const 16) (i32.const 1) (i32.const 24))))

  ;; Strings end with 0: make that a new line.
  (func $print_strings (param $at i32) (param $length i32)
    (local $i i32)
    (block $done
      (loop $next
        (br_if $done (i32.eq (local.get $i) (local.get $length)))
        (if (i32.eqz (i32.load8_u (i32.add (local.get $at) (local.get $i))))
          (then (i32.store8 (i32.add (local.get $at) (local.get $i)) (i32.const 10))))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br $next)))
    (call $print (i32.const 1) (local.get $at) (local.get $length)))

  (func $print_everything
    (call $print_strings (i32.const 2048) (i32.load (i32.const 4)))
    (drop (call $environ_sizes (i32.const 0) (i32.const 4)))
    (drop (call $environ (i32.const 8192) (i32.const 10240)))
    (call $print_strings (i32.const 10240) (i32.load (i32.const 4)))
    (if (i32.eqz (call $path_open (i32.const 3) (i32.const 0) (i32.const 100) (i32.const 8) (i32.const 0)
                    (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 32)))
      (then
        (i32.store (i32.const 16) (i32.const 20480))
        (i32.store (i32.const 20) (i32.const 1000))
        (drop (call $fd_read (i32.load (i32.const 32)) (i32.const 16) (i32.const 1) (i32.const 24)))
        (call $print (i32.const 2) (i32.const 20480) (i32.load (i32.const 24))))))

  (func $copy
    (loop $more
      (i32.store (i32.const 16) (i32.const 20480))
      (i32.store (i32.const 20) (i32.const 1000))
      (if (i32.eqz (call $fd_read (i32.const 0) (i32.const 16) (i32.const 1) (i32.const 24)))
        (then
          (if (i32.load (i32.const 24))
            (then
              (call $print (i32.const 1) (i32.const 20480) (i32.load (i32.const 24)))
              (br $more)))))))

  (func $exit_with_digit
    (call $proc_exit (i32.sub (i32.load8_u (i32.add (i32.load (i32.const 1028)) (i32.const 1))) (i32.const 48))))

  (func $step_on_a_mine (unreachable))

  (func $grow_until_refused
    (loop $again (br_if $again (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))
    (unreachable))

  (func (export "_start")
    (local $letter i32)
    (drop (call $args_sizes (i32.const 0) (i32.const 4)))
    (drop (call $args (i32.const 1024) (i32.const 2048)))
    (local.set $letter (i32.load8_u (i32.load (i32.const 1028))))
    (if (i32.eq (local.get $letter) (i32.const 112)) (then (call $print_everything)))
    (if (i32.eq (local.get $letter) (i32.const 101))
      (then (call $exit_with_digit)))
    (if (i32.eq (local.get $letter) (i32.const 99)) (then (call $copy) (call $exit_with_digit)))
    (if (i32.eq (local.get $letter) (i32.const 116)) (then (call $step_on_a_mine)))
    (if (i32.eq (local.get $letter) (i32.const 115)) (then (loop $again (br $again))))
    (if (i32.eq (local.get $letter) (i32.const 103)) (then (call $grow_until_refused)))
    (if (i32.eq (local.get $letter) (i32.const 102))
      (then (loop $again (call $print (i32.const 1) (i32.const 120) (i32.const 71)) (br $again))))
    (if (i32.eq (local.get $letter) (i32.const 119))
      (then
        (call $copy)
        (i32.store (i32.const 320) (i32.const 1)) ;; the monotonic clock, in 2^62 ns
        (i64.store (i32.const 328) (i64.const 4611686018427387904))
        (drop (call $poll (i32.const 304) (i32.const 400) (i32.const 1) (i32.const 500)))))))
