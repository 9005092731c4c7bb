;; An HTTP handler that reads files: `/NAME` answers with the first 1,000 bytes of NAME in the first folder that it was given, or 404 with
;; `error ` and a letter, A for the first code of wasi:filesystem. `/*NAME` opens NAME again and again until that fails. `/+NAME` and `/!NAME`
;; make it and write to it until that fails, the one at offsets, the other to a stream. `/&NAME` reads it for ever, at an offset and from a
;; stream in turn.
(module
  (import "wasi:http/types@0.2.0" "[method]incoming-request.path-with-query" (func $path (param i32 i32)))
  (import "wasi:http/types@0.2.0" "[constructor]fields" (func $fields (result i32)))
  (import "wasi:http/types@0.2.0" "[constructor]outgoing-response" (func $response (param i32) (result i32)))
  (import "wasi:http/types@0.2.0" "[method]outgoing-response.set-status-code" (func $set_status (param i32 i32) (result i32)))
  (import "wasi:http/types@0.2.0" "[method]outgoing-response.body" (func $body (param i32 i32)))
  (import "wasi:http/types@0.2.0" "[method]outgoing-body.write" (func $write (param i32 i32)))
  (import "wasi:http/types@0.2.0" "[static]outgoing-body.finish" (func $finish (param i32 i32 i32 i32)))
  (import "wasi:http/types@0.2.0" "[static]response-outparam.set"
    (func $set (param i32 i32 i32 i32 i64 i32 i32 i32 i32)))
  (import "wasi:io/streams@0.2.0" "[method]output-stream.blocking-write-and-flush" (func $put (param i32 i32 i32 i32)))
  (import "wasi:io/streams@0.2.0" "[resource-drop]output-stream" (func $drop_output (param i32)))
  (import "wasi:filesystem/preopens@0.2.0" "get-directories" (func $folders (param i32)))
  (import "wasi:filesystem/types@0.2.0" "[method]descriptor.open-at" (func $open (param i32 i32 i32 i32 i32 i32 i32)))
  (import "wasi:filesystem/types@0.2.0" "[method]descriptor.read" (func $read (param i32 i64 i64 i32)))

  (import "wasi:filesystem/types@0.2.0" "[method]descriptor.write" (func $write_at (param i32 i32 i32 i64 i32)))
  (import "wasi:filesystem/types@0.2.0" "[method]descriptor.write-via-stream" (func $to_stream (param i32 i64 i32)))
  (import "wasi:filesystem/types@0.2.0" "[method]descriptor.read-via-stream" (func $from_stream (param i32 i64 i32)))
  (import "wasi:io/streams@0.2.0" "[method]input-stream.blocking-read" (func $take (param i32 i64 i32)))
  (import "wasi:io/streams@0.2.0" "[resource-drop]input-stream" (func $drop_input (param i32)))
  (import "wasi:filesystem/types@0.2.0" "filesystem-error-code" (func $code (param i32 i32)))

  (memory (export "memory") 32)
  (global $heap (mut i32) (i32.const 8192))
  (data (i32.const 1024) "error ")

  (func $cabi_realloc (export "cabi_realloc") (param $old i32) (param $size i32) (param $align i32) (param $new i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 15)) (i32.const -16)))
    (global.set $heap (i32.add (local.get $at) (local.get $new)))
    (local.get $at))

  (func $answer (param $out i32) (param $code i32) (param $text i32) (param $length i32)
    (local $res i32) (local $body i32) (local $to i32)
    (local.set $res (call $response (call $fields)))
    (drop (call $set_status (local.get $res) (local.get $code)))
    (call $body (local.get $res) (i32.const 16))
    (local.set $body (i32.load (i32.const 20)))
    (call $set (local.get $out) (i32.const 0) (local.get $res) (i32.const 0) (i64.const 0)
      (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))
    (call $write (local.get $body) (i32.const 16))
    (local.set $to (i32.load (i32.const 20)))
    (call $put (local.get $to) (local.get $text) (local.get $length) (i32.const 16))
    (call $drop_output (local.get $to))
    (call $finish (local.get $body) (i32.const 0) (i32.const 0) (i32.const 16)))

  (func $fail (param $out i32) (param $code i32)
    (i32.store8 (i32.const 1030) (i32.add (i32.const 65) (local.get $code)))
    (call $answer (local.get $out) (i32.const 404) (i32.const 1024) (i32.const 7)))

  (func (export "wasi:http/incoming-handler@0.2.0#handle") (param $in i32) (param $out i32)
    (local $letter i32) (local $skip i32) (local $fd i32) (local $at i64)
    (call $path (local.get $in) (i32.const 0))
    (local.set $letter (i32.load8_u (i32.add (i32.load (i32.const 4)) (i32.const 1))))
    ;; * ! +
    (local.set $skip (i32.add (i32.const 1) (i32.and
      (i32.ge_u (local.get $letter) (i32.const 33)) (i32.le_u (local.get $letter) (i32.const 43)))))
    (call $folders (i32.const 64))
    (loop $again
      ;; follow links; create nothing and read, or create and write
      (call $open (i32.load (i32.load (i32.const 64))) (i32.const 1)
        (i32.add (i32.load (i32.const 4)) (local.get $skip)) (i32.sub (i32.load (i32.const 8)) (local.get $skip))
        (i32.or (i32.eq (local.get $letter) (i32.const 33)) (i32.eq (local.get $letter) (i32.const 43)))
        (i32.add (i32.const 1) (i32.or (i32.eq (local.get $letter) (i32.const 33)) (i32.eq (local.get $letter) (i32.const 43))))
        (i32.const 80))
      (if (i32.load8_u (i32.const 80))
        (then (call $fail (local.get $out) (i32.load8_u (i32.const 84))) (return)))
      (br_if $again (i32.eq (local.get $letter) (i32.const 42))))
    (local.set $fd (i32.load (i32.const 84)))
    (if (i32.eq (local.get $letter) (i32.const 38))
      (then
        (loop $more
          (global.set $heap (i32.const 8192))
          (call $read (local.get $fd) (i64.const 65536) (i64.const 0) (i32.const 96))
          (if (i32.load8_u (i32.const 96)) (then (unreachable)))
          (call $from_stream (local.get $fd) (i64.const 0) (i32.const 112))
          (if (i32.load8_u (i32.const 112)) (then (unreachable)))
          (call $take (i32.load (i32.const 116)) (i64.const 65536) (i32.const 128))
          (if (i32.load8_u (i32.const 128)) (then (unreachable)))
          (call $drop_input (i32.load (i32.const 116)))
          (br $more))))
    (if (i32.eq (local.get $letter) (i32.const 43))
      (then
        (loop $more
          (call $write_at (local.get $fd) (i32.const 65536) (i32.const 1048576) (local.get $at) (i32.const 96))
          (if (i32.load8_u (i32.const 96))
            (then (call $fail (local.get $out) (i32.load8_u (i32.const 104))) (return)))
          (local.set $at (i64.add (local.get $at) (i64.load (i32.const 104))))
          (br $more))))
    (if (i32.eq (local.get $letter) (i32.const 33))
      (then
        (call $to_stream (local.get $fd) (i64.const 0) (i32.const 96))
        (local.set $fd (i32.load (i32.const 100)))
        (loop $more
          (call $put (local.get $fd) (i32.const 65536) (i32.const 4096) (i32.const 112))
          (if (i32.load8_u (i32.const 112))
            (then
              (call $code (i32.load (i32.const 120)) (i32.const 128))
              (call $fail (local.get $out) (i32.load8_u (i32.const 129)))
              (return)))
          (br $more))))
    (call $read (i32.load (i32.const 84)) (i64.const 1000) (i64.const 0) (i32.const 96))
    (call $answer (local.get $out) (i32.const 200) (i32.load (i32.const 100)) (i32.load (i32.const 104)))))
