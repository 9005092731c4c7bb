//! Kubernetes' libraries: what their functions give, and what they cost by upstream's figures.

use super::{
    tests::{eval, fails, holds},
    *,
};
use serde_json::json;
use std::sync::{Arc, Mutex};

/// Allows what is got, and remembers what it was asked.
#[derive(Default)]
struct Asked(Mutex<Vec<Attributes>>);

impl Authorizer for Asked {
    fn authorize(&self, attributes: &Attributes) -> Decision {
        self.0.lock().expect("a lock").push(attributes.clone());
        let error = (attributes.name == "broken").then(|| "no answer".to_owned());
        Decision { allowed: attributes.verb == "get", reason: "because".to_owned(), error }
    }
}

fn with_authorizer(text: &str) -> (Result<serde_json::Value, String>, Vec<Attributes>, u64, (u64, u64)) {
    let env = Env::kubernetes().with_variable("authorizer", AUTHORIZER).with_mutation();
    let program = env.compile(text).map_err(|issues| issues.to_string()).expect(text);
    let asked = Arc::new(Asked::default());
    let activation = Activation::new().with("authorizer", Value::authorizer(asked.clone()));
    let mut budget = Budget::new(10_000_000);
    let value = program.eval(&activation, &mut budget).map_err(|error| error.to_string());
    let value = value.and_then(|value| value.to_json());
    let attributes = asked.0.lock().expect("a lock").clone();
    (value, attributes, budget.used(), program.cost(&()))
}

/// Expressions with their least and greatest estimate and with what they cost when they run, unless constants of them are made once.
#[test]
fn calls_cost_what_they_cost_upstream() {
    for (text, min, max, used) in [
        (r#"'ABCDEFGHIJ abcdefghij'.lowerAscii()"#, 3, 3, Some(3)),
        (r#"'ABCDEFGHIJ abcdefghij'.lowerAscii() == 'abcdefghij ABCDEFGHIJ'.lowerAscii()"#, 7, 9, Some(9)),
        (r#"'ABCDEFGHIJ abcdefghij'.upperAscii()"#, 3, 3, Some(3)),
        (r#"'ABCDEFGHIJ abcdefghij'.upperAscii() == 'abcdefghij ABCDEFGHIJ'.upperAscii()"#, 7, 9, Some(9)),
        (r#"strings.quote('ABCDEFGHIJ abcdefghij')"#, 3, 3, Some(3)),
        (r#"strings.quote('ABCDEFGHIJ abcdefghij') == strings.quote('ABCDEFGHIJ abcdefghij')"#, 7, 11, Some(9)),
        (r#"'abc 123 def 123'.replace('123', '456')"#, 3, 3, Some(3)),
        (r#"'abc 123 def 123'.replace('', 'x')"#, 3, 3, Some(3)),
        (r#"'abc 123 def 123'.replace('123', '')"#, 3, 3, Some(3)),
        (r#"'abc 123 def 123'.replace('123', '456', 1)"#, 3, 3, Some(3)),
        (r#"'abc 123 def 123'.split(' ')"#, 3, 3, Some(3)),
        (r#"'abc 123 def 123'.split(' ', 1)"#, 3, 3, Some(3)),
        (r#"'abc 123 def 123'.substring(5)"#, 2, 2, Some(2)),
        (r#"'abc 123 def 123'.substring(5, 8)"#, 2, 2, Some(2)),
        (r#"'  abc 123 def 123  '.trim()"#, 2, 2, Some(2)),
        (r#"'abc 123 def 123'.find('123')"#, 2, 2, Some(2)),
        (r#"'abc 123 def 123'.findAll('123')"#, 2, 2, Some(2)),
        (r#"'abc 123 def 123'.findAll('123', 1)"#, 2, 2, Some(2)),
        (r#"jsonpatch.escapeKey('abc/def~ abc/def~')"#, 2, 2, Some(2)),
        (r#"authorizer.path('/healthz')"#, 2, 2, Some(2)),
        (
            r#"authorizer.group('apps').resource('deployments').subresource('status').namespace('test').name('backend')"#,
            6,
            6,
            Some(6),
        ),
        (
            r#"authorizer.group('').resource('pods').fieldSelector('spec.nodeName=example-node-name.fully.qualified.domain.name.example.com')"#,
            1821,
            1821,
            Some(1821),
        ),
        (
            r#"authorizer.group('').resource('pods').labelSelector('spec.nodeName=example-node-name.fully.qualified.domain.name.example.com')"#,
            1821,
            1821,
            Some(1821),
        ),
        (r#"authorizer.path('/healthz').check('get').allowed()"#, 350003, 350003, Some(350003)),
        (
            r#"authorizer.group('apps').resource('deployments').subresource('status').namespace('test').name('backend').check('create').allowed()"#,
            350007,
            350007,
            Some(350007),
        ),
        (
            r#"authorizer.group('apps').resource('deployments').subresource('status').namespace('test').name('backend').check('create').errored()"#,
            350007,
            350007,
            Some(350007),
        ),
        (
            r#"authorizer.group('apps').resource('deployments').subresource('status').namespace('test').name('backend').check('create').error()"#,
            350007,
            350007,
            Some(350007),
        ),
        (r#"quantity("12Mi")"#, 1, 1, Some(1)),
        (r#"isQuantity("20")"#, 1, 1, Some(1)),
        (r#"isQuantity("20M")"#, 1, 1, Some(1)),
        (r#"quantity("200M") == quantity("200M")"#, 3, 3, Some(3)),
        (r#"quantity("200M") == quantity("0.2G") && quantity("0.2G") == quantity("200M")"#, 3, 6, Some(6)),
        (
            r#"quantity("2M") == quantity("0.002G") && quantity("2000k") == quantity("2M") && quantity("0.002G") == quantity("2000k")"#,
            3,
            9,
            Some(9),
        ),
        (r#"quantity("50M").isLessThan(quantity("50Mi"))"#, 3, 3, Some(3)),
        (r#"quantity("50Mi").isGreaterThan(quantity("50M"))"#, 3, 3, Some(3)),
        (r#"quantity("200M").compareTo(quantity("0.2G")) > 0"#, 4, 4, Some(4)),
        (r#"quantity("50k").add(quantity("20")) == quantity("50.02k")"#, 5, 5, Some(5)),
        (r#"quantity("50k").sub(quantity("20")) == quantity("49.98k")"#, 5, 5, Some(5)),
        (r#"quantity("50k").sub(20) == quantity("49980")"#, 4, 4, Some(4)),
        (r#"quantity("50k").add(20).sub(quantity("100k")).asInteger() > 0"#, 6, 6, Some(6)),
        (r#"quantity("50k").add(20).sub(quantity("100k")).sub(-50000).asInteger() > 0"#, 7, 7, Some(7)),
        (r#"quantity("50k").asInteger() > 0"#, 3, 3, Some(3)),
        (r#"quantity("50").isInteger()"#, 2, 2, Some(2)),
        (r#"quantity("50.703k").asApproximateFloat() > 0.0"#, 3, 3, Some(3)),
        (r#"format.named("dns1123subdomain")"#, 1, 1, Some(1)),
        (r#"format.named("dns1123Label").value().validate("my-name")"#, 34, 34, Some(10)),
        (r#"format.named("dns1123Label").value() == format.named("dns1123Label").value()"#, 5, 11, Some(5)),
        (r#"sets.contains([], [])"#, 21, 21, None),
        (r#"sets.contains([1], [])"#, 21, 21, None),
        (r#"sets.contains([1], [1])"#, 22, 22, None),
        (r#"sets.contains([1], [1, 1])"#, 23, 23, None),
        (r#"sets.contains([1, 1], [1])"#, 23, 23, None),
        (r#"sets.contains([2, 1], [1])"#, 23, 23, None),
        (r#"sets.contains([1, 2, 3, 4], [2, 3])"#, 29, 29, None),
        (r#"!sets.contains([1], [2])"#, 23, 23, None),
        (r#"!sets.contains([1], [1, 2])"#, 24, 24, None),
        (r#"sets.equivalent([], [])"#, 21, 21, None),
        (r#"sets.equivalent([1], [1])"#, 23, 23, None),
        (r#"sets.equivalent([1], [1, 1])"#, 25, 25, None),
        (r#"sets.equivalent([1, 1], [1])"#, 25, 25, None),
        (r#"!sets.equivalent([2, 1], [1])"#, 26, 26, None),
        (r#"!sets.equivalent([1], [1, 2])"#, 26, 26, None),
        (r#"sets.intersects([1], [1])"#, 22, 22, None),
        (r#"sets.intersects([1], [1, 1])"#, 23, 23, None),
        (r#"sets.intersects([1, 1], [1])"#, 23, 23, None),
        (r#"sets.intersects([2, 1], [1])"#, 23, 23, None),
        (r#"sets.intersects([1], [1, 2])"#, 23, 23, None),
        (r#"!sets.intersects([], [])"#, 22, 22, None),
        (r#"!sets.intersects([1], [])"#, 22, 22, None),
        (r#"!sets.intersects([1], [2])"#, 23, 23, None),
        (r#"semver("1.0.0")"#, 1, 1, Some(1)),
        (r#"semver("1234.56789012345.67890123456789")"#, 4, 4, Some(4)),
        (r#"isSemver("1.0.0")"#, 1, 1, Some(1)),
        (r#"isSemver("1234.56789012345.67890123456789")"#, 4, 4, Some(4)),
        (r#"semver("1.2.3").major()"#, 2, 2, Some(2)),
        (r#"semver("1.2.3").minor()"#, 2, 2, Some(2)),
        (r#"semver("1.2.3").patch()"#, 2, 2, Some(2)),
        (r#"semver("1.0.0").isLessThan(semver("1.1.0"))"#, 3, 3, Some(3)),
        (r#"semver("1.1.0").isGreaterThan(semver("1.0.0"))"#, 3, 3, Some(3)),
        (r#"semver("1.0.0").compareTo(semver("1.2.3"))"#, 3, 3, Some(3)),
        (r#"{'a': 1, 'b': 2}.all(k, v, v > 0)"#, 37, 41, None),
        (r#"{'a': 1, 'b': 2}.exists(k, v, v > 0)"#, 39, 43, None),
        (r#"{'a': 1, 'b': 2}.existsOne(k, v, v > 0)"#, 38, 40, None),
        (r#"{'a': 1, 'b': 2}.transformMap(k, v, v + 1)"#, 71, 71, None),
        (r#"{'a': 1, 'b': 2}.transformMap(k, v, v < 5, v + 1)"#, 67, 75, None),
        (r#"{'a': 1, 'b': 2}.transformMapEntry(k, v, {k: v + 1})"#, 131, 131, None),
        (r#"{'a': 1, 'b': 2}.transformMapEntry(k, v, v < 5, {k: v + 1})"#, 67, 135, None),
        (r#"[1, 2].all(i, v, v > 0)"#, 17, 21, None),
        (r#"[1, 2].exists(i, v, v > 0)"#, 19, 23, None),
        (r#"[1, 2].existsOne(i, v, v > 0)"#, 18, 20, None),
        (r#"[1, 2].transformList(i, v, v + 1)"#, 49, 49, None),
        (r#"[1, 2].transformList(i, v, v < 5, v + 1)"#, 27, 53, None),
    ] {
        let (value, _, cost, estimate) = with_authorizer(text);
        assert!(value.is_ok(), "{text}: {value:?}");
        assert_eq!(estimate, (min, max), "{text}");
        assert_eq!(used.unwrap_or(cost), cost, "{text}");
    }
}

#[test]
fn strings() {
    holds(&[
        "'tacocat'.charAt(3) == 'o' && 'a'.charAt(1) == '' && 'é👑'.charAt(1) == '👑'",
        "'hello mellow'.indexOf('ello') == 1 && 'hello mellow'.indexOf('ello', 2) == 7 && 'a'.indexOf('x') == -1",
        "'hello'.indexOf('') == 0 && 'hello'.indexOf('', 3) == 3 && 'é👑x'.indexOf('x') == 2 && 'a'.indexOf('a', 9) == -1",
        "'hello mellow'.lastIndexOf('ello') == 7 && 'hello mellow'.lastIndexOf('ello', 6) == 1 && 'a'.lastIndexOf('') == 1",
        "'hello mellow'.lastIndexOf('ello', 7) == 7 && 'hello'.lastIndexOf('o', 99) == -1 && 'éé'.lastIndexOf('é') == 1",
        "'TacoCat É'.lowerAscii() == 'tacocat É' && 'tacocat é'.upperAscii() == 'TACOCAT é'",
        "'hello hello'.replace('he', 'we') == 'wello wello' && 'hello hello'.replace('he', 'we', 1) == 'wello hello'",
        "'aa'.replace('', '-') == '-a-a-' && 'aa'.replace('a', 'b', 0) == 'aa' && 'aa'.replace('a', 'b', -1) == 'bb'",
        "'a b c'.split(' ') == ['a', 'b', 'c'] && 'a b c'.split(' ', 2) == ['a', 'b c'] && 'a'.split(' ', 0) == []",
        "'ab'.split('') == ['a', 'b'] && ''.split('') == [] && ''.split(',') == [''] && 'abc'.split('', 2) == ['a', 'bc']",
        "'tacocat'.substring(4) == 'cat' && 'tacocat'.substring(0, 4) == 'taco' && 'é👑x'.substring(1, 2) == '👑'",
        r"'  \ttrim\n '.trim() == 'trim'",
        "['a', 'b'].join() == 'ab' && ['a', 'b'].join('-') == 'a-b' && [].join('-') == ''",
        r#"strings.quote('a"b\n') == r'"a\"b\n"'"#,
        "'%s and %d'.format(['x', 5]) == 'x and 5' && '%%'.format([]) == '%' && '%.2f'.format([1.239]) == '1.24'",
        "'%s'.format([[1, 'a', 2.5]]) == '[1, \"a\", 2.500000]' && '%s'.format([{'b': 1, 'a': true}]) == '{\"a\": true, \"b\": 1}'",
        "'%x %X %o %b'.format([255, 255, 8, true]) == 'ff FF 10 1' && '%x'.format(['hi']) == '6869'",
        "'%f'.format([1234567.5]) == '1,234,567.500000' && '%.3e'.format([0.00123]) == '1.230×10⁻⁰³'",
        "'%s %s %s'.format([null, string, duration('1.5s')]) == 'null string 1.5s'",
    ]);
    fails(&[
        ("'a'.charAt(2) == ''", "index out of range: 2"),
        ("'a'.substring(2) == ''", "index out of range: 2"),
        ("'abc'.substring(2, 1) == ''", "invalid substring range. start: 2, end: 1"),
        ("'a'.indexOf('a', -1) == 0", "index out of range: -1"),
        (
            "'%d'.format(dyn(['a'])) == ''",
            "error during formatting: decimal clause can only be used on integers, was given string",
        ),
        ("'%s %s'.format(dyn(['a'])) == ''", "index 1 out of range"),
        ("'%q'.format(dyn(['a'])) == ''", "could not parse formatting clause: unrecognized formatting clause \"q\""),
        ("'%'.format(dyn(['a'])) == ''", "unexpected end of string"),
    ]);
}

#[test]
fn lists() {
    holds(&[
        "[1, 2, 2].isSorted() && !['b', 'a'].isSorted() && [].isSorted()",
        "[1, 3].sum() == 4 && [1.5, 2.0].sum() == 3.5 && [duration('1m'), duration('1s')].sum() == duration('61s')",
        "dyn([]).sum() == 0 && [1.0].filter(x, false).sum() == 0.0 && [1u].filter(x, false).sum() == 0u",
        "[1, 3].min() == 1 && ['a', 'c', 'b'].max() == 'c' && [1, 2, 1].indexOf(1) == 0 && [1, 2, 1].lastIndexOf(1) == 2",
        "[1].indexOf(3) == -1 && [1, 2, 3, 4].slice(1, 3) == [2, 3] && [[1], [2]].flatten() == [1, 2]",
        "[dyn(1), dyn([dyn(2), dyn([3])])].flatten(2).size() == 3",
        "[3, 1, 2].sort() == [1, 2, 3] && ['b', 'a'].sort() == ['a', 'b'] && lists.range(3) == [0, 1, 2]",
        "[1, 2].reverse() == [2, 1] && [1, 2, 1].distinct() == [1, 2]",
        "sets.contains([1, 2], [2]) && !sets.contains([1], [2]) && sets.equivalent([1, 2], [2, 1, 1]) && sets.intersects([1], [1, 2])",
    ]);
    fails(&[
        ("[].min() == 1", "min called on empty list"),
        ("[1].slice(0, 2) == []", "cannot slice(0, 2), list is length 1"),
        ("[1].slice(1, 0) == []", "cannot slice(1, 0), start index must be less than or equal to end index"),
        ("lists.range(100000000) == []", "operation cancelled: actual cost limit exceeded"),
    ]);
}

#[test]
fn regular_expressions() {
    holds(&[
        r"'abc 123'.find('[0-9]+') == '123' && 'abc'.find('x') == ''",
        r"'1 22 333'.findAll('[0-9]+') == ['1', '22', '333'] && '1 22 333'.findAll('[0-9]+', 2) == ['1', '22']",
        r"'123-456'.matches('^[0-9]+(-[0-9]+)?$') && matches('hello', '^h.*o$') && 'xabcx'.matches('abc')",
        r"'12'.matches(r'^\d+$') && !'١٢'.matches(r'^\d+$') && 'a_1'.matches(r'^\w+$') && !'é'.matches(r'^\w$')",
        r"'a{b'.matches('a{b') && 'aa'.matches('^a{2}$') && 'a.b'.matches(r'^\Qa.b\E$') && 'é'.matches(r'^\p{L}$')",
        r"'a-b'.matches('^[a-z-]+$') && '[]'.matches(r'^[\[\]]+$') && 'x&&y'.matches('^[x&y]+$') && ' a '.matches(r'\ba\b')",
        r"'[a]'.matches('^[[]a[]]$') && '5'.matches('^[[:digit:]]$') && 'A'.matches('(?i)a') && 'a\nb'.matches('(?s)a.b')",
        r"'a'.matches('a' + '.*') == false || true",
        r"['a+', 'b+'].all(p, 'ab'.matches(p))",
        r"'ab'.matches(r'^a\Bb$') && 'a b'.matches(r'^a\b \bb$') && 'a_-'.matches(r'^a\_\-$') && !'ab'.matches(r'a\bb')",
    ]);
    let message = eval("'a'.matches(['('][0])").expect_err("no expression");
    assert!(message.starts_with("error parsing regexp: "), "{message}");
    let message = eval("'a'.find(['('][0]) == ''").expect_err("no expression");
    assert!(message.starts_with("Illegal regex: error parsing regexp: "), "{message}");
    assert!(eval("'a'.matches(['((a{100}){100}){100}'][0])").is_err(), "too large");
    for (pattern, cause) in [
        ("x++", "invalid nested repetition operator: `++`"),
        ("x*?*", "invalid nested repetition operator: `*?*`"),
        ("x{1001}", "invalid repeat count: `{1001}`"),
        (")", "unexpected ): `)`"),
        ("(", "missing closing ): `(`"),
        ("*a", "missing argument to repetition operator: `*`"),
    ] {
        let message = eval(&format!("'a'.matches(['{pattern}'][0])"));
        assert_eq!(message, Err(format!("error parsing regexp: {cause}")), "{pattern}");
    }
    holds(&[
        "'aa'.matches('^a+?$') && 'aa'.matches('^(?:a){2}?$') && 'a'.matches('^(?P<x>a)$') && '{,1}'.matches('{,1}')",
    ]);
}

#[test]
fn addresses() {
    holds(&[
        "ip('127.0.0.1').isLoopback() && ip('::1').isLoopback() && ip('0.0.0.0').isUnspecified() && ip('::').isUnspecified()",
        "ip('1.2.3.4').family() == 4 && ip('fe80::1').family() == 6 && ip('fe80::1').isLinkLocalUnicast()",
        "ip('224.0.0.1').isLinkLocalMulticast() && ip('ff02::1').isLinkLocalMulticast() && !ip('224.0.1.1').isLinkLocalMulticast()",
        "ip('192.168.0.1').isGlobalUnicast() && !ip('255.255.255.255').isGlobalUnicast() && !ip('127.0.0.1').isGlobalUnicast()",
        "isIP('1.2.3.4') && !isIP('1.2.3') && !isIP('::ffff:1.2.3.4') && !isIP('fe80::1%eth0') && !isIP('01.2.3.4')",
        "ip.isCanonical('2001:db8::abcd') && !ip.isCanonical('2001:DB8::ABCD') && string(ip('2001:DB8::1')) == '2001:db8::1'",
        "ip('2001:db8::1') == ip('2001:DB8::1') && ip('1.2.3.4') != ip('1.2.3.5') && type(ip('::')) == net.IP",
        "cidr('192.168.0.0/24').containsIP('192.168.0.9') && !cidr('192.168.0.0/24').containsIP(ip('192.168.1.9'))",
        "cidr('192.168.0.0/24').containsCIDR('192.168.0.0/25') && !cidr('192.168.0.0/24').containsCIDR(cidr('192.168.0.0/23'))",
        "cidr('192.168.1.5/24').ip() == ip('192.168.1.5') && cidr('192.168.1.5/24').masked() == cidr('192.168.1.0/24')",
        "cidr('2001:db8::1/32').prefixLength() == 32 && string(cidr('10.0.0.0/8')) == '10.0.0.0/8' && cidr('::/0').containsIP('::1')",
        "isCIDR('10.0.0.0/8') && !isCIDR('10.0.0.0') && !isCIDR('10.0.0.0/33') && !isCIDR('10.0.0.0/08') && !isCIDR('10.0.0.0/+8')",
    ]);
    let message = eval("ip('x').family() == 4").expect_err("no address");
    assert!(message.starts_with("IP Address \"x\" parse error during conversion from string: "), "{message}");
}

#[test]
fn urls() {
    holds(&[
        "url('https://user:pass@Example.com:80/a%20b?x=1&x=2&y=a+b#f').getHost() == 'Example.com:80'",
        "url('https://example.com:80/').getHostname() == 'example.com' && url('https://example.com:80/').getPort() == '80'",
        "url('HTTPS://[::1]:80/').getScheme() == 'https' && url('https://[::1]:80/').getHostname() == '::1'",
        "url('https://[::1]:80/').getHost() == '[::1]:80' && url('/path').getHost() == '' && url('/path').getEscapedPath() == '/path'",
        "url('https://e.com/a b').getEscapedPath() == '/a%20b' && url('https://e.com/a%2Fb').getEscapedPath() == '/a%2Fb'",
        "url('https://e.com/?x=1&x=2&y=a+b').getQuery() == {'x': ['1', '2'], 'y': ['a b']} && url('/').getQuery() == {}",
        "isURL('https://e.com') && isURL('/a') && !isURL('a') && !isURL('') && !isURL('../x') && !isURL('https://a b.c/') && isURL('mailto:a@b.c')",
        "url('https://e.com/') == url('https://e.com/') && url('https://e.com/') != url('https://f.com/')",
    ]);
    fails(&[
        (
            "url('a').getHost() == ''",
            "URL parse error during conversion from string: parse \"a\": invalid URI for request",
        ),
        ("url('').getHost() == ''", "URL parse error during conversion from string: parse \"\": empty url"),
        (
            "url('https://a:b/').getHost() == ''",
            "URL parse error during conversion from string: parse \"https://a:b/\": invalid port \":b\" after host",
        ),
    ]);
}

#[test]
fn quantities_and_versions() {
    holds(&[
        "quantity('200M') == quantity('0.2G') && quantity('50M').isLessThan(quantity('50Mi')) && isQuantity('1.3Gi') && !isQuantity('1.3G i')",
        "quantity('50k').add(quantity('20')) == quantity('50.02k') && quantity('50k').sub(20) == quantity('49980') && quantity('1').add(1) == quantity('2')",
        "quantity('50k').asInteger() == 50000 && quantity('50').isInteger() && !quantity('50m').isInteger() && sign(quantity('-5')) == -1",
        "quantity('50.703k').asApproximateFloat() == 50703.0 && quantity('1Ki').asApproximateFloat() == 1024.0 && quantity('5m').asApproximateFloat() == 0.005",
        "quantity('1').compareTo(quantity('2')) == -1 && quantity('2').compareTo(quantity('2')) == 0",
        "semver('1.2.3').major() == 1 && semver('1.2.3').minor() == 2 && semver('1.2.3').patch() == 3",
        "semver('1.0.0').isLessThan(semver('1.1.0')) && semver('1.0.0').isGreaterThan(semver('1.0.0-alpha')) && semver('1.0.0+a') == semver('1.0.0+b')",
        "semver('v1.0', true) == semver('1.0.0') && semver('01.2', true) == semver('1.2.0') && !isSemver('v1.0') && isSemver('v1', true)",
        "!isSemver('1.0') && !isSemver('01.0.0') && isSemver('1.0.0-rc.1+build') && semver('1.2.3').compareTo(semver('1.2.4')) == -1",
    ]);
    fails(&[
        ("quantity('50m').asInteger() == 1", "cannot convert value to integer"),
        ("semver('1').major() == 1", "No Major.Minor.Patch elements found"),
        ("semver('').major() == 1", "Version string empty"),
    ]);
    assert!(eval("quantity('x') == quantity('1')").is_err());
}

#[test]
fn formats() {
    holds(&[
        "!format.dns1123Label().validate('my-name').hasValue() && format.dns1123Label().validate('My').hasValue()",
        "!format.named('dns1123Subdomain').value().validate('a.b').hasValue() && !format.named('nope').hasValue()",
        "!format.dns1123LabelPrefix().validate('my-').hasValue() && format.dns1123Label().validate('my-').hasValue()",
        "!format.dns1035Label().validate('a1').hasValue() && format.dns1035Label().validate('1a').hasValue()",
        "!format.qualifiedName().validate('a.b/C').hasValue() && !format.labelValue().validate('').hasValue() && format.labelValue().validate('-').hasValue()",
        "!format.uri().validate('https://a').hasValue() && format.uri().validate('a').hasValue()",
        "!format.uuid().validate('123e4567-e89b-12d3-a456-426614174000').hasValue() && format.uuid().validate('123e4567-e89b-12d3-a456-42661417400').hasValue()",
        "!format.byte().validate('aGVsbG8=').hasValue() && format.byte().validate('aGVsbG8').orValue([]) == ['invalid base64']",
        "!format.date().validate('2021-01-01').hasValue() && format.date().validate('2021-13-01').orValue([]) == ['invalid date']",
        "!format.datetime().validate('2021-01-01T00:00:00Z').hasValue() && format.datetime().validate('x').orValue([]) == ['invalid datetime']",
        "format.named('uri').value() == format.uri()",
    ]);
}

#[test]
fn the_authorizer_is_asked() {
    let (value, asked, ..) = with_authorizer(
        "authorizer.group('apps').resource('deployments').subresource('status').namespace('n').name('x').fieldSelector('a=b').labelSelector('c').check('get').allowed()",
    );
    assert_eq!(value, Ok(json!(true)));
    let expected = Attributes {
        verb: "get".to_owned(),
        group: "apps".to_owned(),
        resource: "deployments".to_owned(),
        subresource: "status".to_owned(),
        namespace: "n".to_owned(),
        name: "x".to_owned(),
        field_selector: "a=b".to_owned(),
        label_selector: "c".to_owned(),
        ..Attributes::default()
    };
    assert_eq!(asked, [expected]);
    let (value, asked, ..) =
        with_authorizer("authorizer.serviceAccount('ns', 'sa').path('/healthz').check('post').reason()");
    assert_eq!(value, Ok(json!("because")));
    assert_eq!(asked.first().and_then(|asked| asked.service_account.clone()), Some(("ns".to_owned(), "sa".to_owned())));
    assert_eq!(asked.first().and_then(|asked| asked.path.as_deref()), Some("/healthz"));
    for (text, found) in [
        ("authorizer.group('').resource('pods').name('broken').check('get').error()", Ok(json!("no answer"))),
        ("authorizer.group('').resource('pods').check('get').errored()", Ok(json!(false))),
        ("authorizer.path(' ').check('get').allowed()", Err("path must not be empty".to_owned())),
        ("authorizer.group('').resource('').check('get').allowed()", Err("resource must not be empty".to_owned())),
        (
            "authorizer.serviceAccount('N', 'a').path('/').check('get').allowed()",
            Err("Invalid service account namespace".to_owned()),
        ),
        ("authorizer == authorizer && jsonpatch.escapeKey('a/b~c') == 'a~1b~0c'", Ok(json!(true))),
    ] {
        assert_eq!(with_authorizer(text).0, found, "{text}");
    }
}

#[test]
fn objects_are_made() {
    let env = Env::kubernetes().with_mutation();
    for (text, made) in [
        ("Object{spec: Object.spec{replicas: 3, names: ['a']}}", json!({"spec": {"replicas": 3, "names": ["a"]}})),
        ("Object{?spec: optional.none()}", json!({})),
        (
            "[JSONPatch{op: 'add', path: '/a/' + jsonpatch.escapeKey('b/c'), value: Object{a: 1}}]",
            json!([{"op": "add", "path": "/a/b~1c", "value": {"a": 1}}]),
        ),
        ("Object{a: 1}.a == 1 && has(Object{a: 1}.a) && !has(Object{}.a) && Object{a: 1} == Object{a: 1}", json!(true)),
        ("type(Object{}) == Object && type(Object.spec{}) == Object.spec", json!(true)),
    ] {
        let program = env.compile(text).map_err(|issues| issues.to_string()).expect(text);
        let value = program.eval(&Activation::new(), &mut Budget::new(1000)).expect(text);
        assert_eq!(value.to_json(), Ok(made), "{text}");
        assert!(value.misnamed_types().is_empty() || text.starts_with('['), "{text}");
    }
    assert_eq!(env.compile("Object{}").ok().map(|program| program.output().clone()), Some(object()));
    assert_eq!(
        env.compile("[JSONPatch{}]").ok().map(|program| program.output().clone()),
        Some(Type::list(json_patch()))
    );
    let program = env.compile("Object{spec: Object.metadata{}}").map_err(|issues| issues.to_string()).expect("types");
    let value = program.eval(&Activation::new(), &mut Budget::new(1000)).expect("a value");
    let expected = r#"unexpected type name "Object.metadata", expected "Object.spec", which matches field name path from root Object type"#;
    assert_eq!(value.misnamed_types(), [expected]);
    for (text, message) in [
        ("Nope{a: 1}", "ERROR: <input>:1:5: undeclared reference to 'Nope' (in container '')"),
        ("JSONPatch{nope: 1}", "ERROR: <input>:1:15: undefined field 'nope'"),
        ("JSONPatch{op: 1}", "ERROR: <input>:1:13: expected type of field 'op' is 'string' but provided type is 'int'"),
    ] {
        let issues = env.compile(text).err().expect(text).to_string();
        assert_eq!(issues.lines().next(), Some(message), "{text}");
    }
    let issues = Env::kubernetes().compile("jsonpatch.escapeKey('')").err().expect("not declared").to_string();
    assert!(issues.contains("undeclared reference to"), "{issues}");
}

#[test]
fn formats_of_texts_are_checked() {
    for (text, message) in [
        (
            "'%d'.format(['a']) == ''",
            "ERROR: <input>:1:14: error during formatting: decimal clause can only be used on integers, was given string",
        ),
        (
            "'%s'.format([[1, quantity('1')]]) == ''",
            "ERROR: <input>:1:26: error during formatting: string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, types, durations, and timestamps, was given kubernetes.Quantity",
        ),
        ("'%s %s'.format(['a']) == ''", "ERROR: <input>:1:15: index 1 out of range"),
        ("'%'.format(['a']) == ''", "ERROR: <input>:1:11: unexpected end of string"),
        (
            "'%q'.format(['a']) == ''",
            "ERROR: <input>:1:12: could not parse formatting clause: unrecognized formatting clause \"q\"",
        ),
        (
            "'%.f'.format([1.0]) == ''",
            "ERROR: <input>:1:13: could not parse formatting clause: error while parsing precision: error while converting precision to integer: strconv.Atoi: parsing \"\": invalid syntax",
        ),
        (
            "'a'.format([1]) == ''",
            "ERROR: <input>:1:11: too many arguments supplied to string.format (expected 0, got 1)",
        ),
    ] {
        let issues = Env::kubernetes().compile(text).err().expect(text).to_string();
        assert_eq!(issues.lines().next(), Some(message), "{text}");
    }
}

#[test]
fn names_of_variables_may_have_dots() {
    let env = Env::kubernetes()
        .with_variable("authorizer", AUTHORIZER)
        .with_variable("authorizer.requestResource", RESOURCE_CHECK);
    let program = env
        .compile("authorizer.requestResource.check('get').allowed() && authorizer.path('/x').check('get').allowed()");
    let program = program.map_err(|issues| issues.to_string()).expect("both are declared");
    let asked = Arc::new(Asked::default());
    let resource = Attributes { resource: "pods".to_owned(), name: "a".to_owned(), ..Attributes::default() };
    let activation = Activation::new()
        .with("authorizer", Value::authorizer(asked.clone()))
        .with("authorizer.requestResource", Value::request_resource(asked.clone(), resource));
    let value = program.eval(&activation, &mut Budget::new(1_000_000)).expect("a value");
    assert_eq!(value.as_bool(), Some(true));
    assert!(program.uses("authorizer.requestResource") && program.cost(&()).1 >= 700_000);
    let asked = asked.0.lock().expect("a lock").clone();
    let asked: Vec<_> = asked.iter().map(|asked| (asked.resource.as_str(), asked.path.as_deref())).collect();
    assert_eq!(asked, [("pods", None), ("", Some("/x"))]);
}

/// Variables of a policy, which are computed when an expression asks for them.
struct Variables {
    asked: std::sync::atomic::AtomicUsize,
}

impl Host for Variables {
    fn field(&self, name: &str, budget: &mut Budget<'_>) -> Result<Option<Value<'_>>, Error> {
        self.asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let program = Env::kubernetes().compile("[1, 2, 3].map(x, x * 2)").map_err(|_| Error::Budget)?;
        (name == "doubled").then(|| program.eval(&Activation::new(), budget)).transpose()
    }
}

#[test]
fn fields_are_computed_when_they_are_asked_for() {
    let of = Type::fields("kubernetes.variables", [("doubled", Type::list(Type::Int)), ("other", Type::Dyn)]);
    let env = Env::kubernetes().with_variable("variables", of);
    let run = |text: &str| {
        let variables = Variables { asked: Default::default() };
        let program = env.compile(text).map_err(|issues| issues.to_string())?;
        let activation = Activation::new().with("variables", Value::Map(Map::Host(&variables)));
        let mut budget = Budget::new(1000);
        let value = program.eval(&activation, &mut budget).map_err(|error| error.to_string())?.to_json()?;
        Ok::<_, String>((value, variables.asked.into_inner(), budget.used()))
    };
    assert_eq!(run("true || variables.doubled[0] == 2"), Ok((json!(true), 0, 0)));
    assert_eq!(run("variables.doubled[2] == 6"), Ok((json!(true), 1, 47)));
    assert_eq!(run("variables.other == 1"), Err("no such key: other".to_owned()));
    let issues = run("variables.nope == 1").expect_err("no such field");
    assert!(issues.starts_with("ERROR: <input>:1:10: undefined field 'nope'"), "{issues}");
}
