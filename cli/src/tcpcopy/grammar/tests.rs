use super::*;

fn map_text(map: &WrittenMap<'_>) -> String {
    let module = map.module.map_or(String::new(), |module| format!("{} ", module.text()));
    let online =
        map.online_addr.map_or_else(|| map.online_port.to_string(), |a| Endpoint::new(a, map.online_port).to_string());
    format!("{module}{online}-{}", map.target)
}

#[test]
fn maps_are_read() {
    for (text, expected) in [
        ("80-10.0.0.2:8080", "80-10.0.0.2:8080"),
        ("10.0.0.1:80-10.0.0.2:8080", "10.0.0.1:80-10.0.0.2:8080"),
        ("80-10.0.0.2:80,8080-10.0.0.2:8080", "80-10.0.0.2:80 8080-10.0.0.2:8080"),
        ("80-10.0.0.2:80, 81-10.0.0.2:81,", "80-10.0.0.2:80 81-10.0.0.2:81"),
        ("80 - 10.0.0.2:80", "80-10.0.0.2:80"),
        ("[fd00::1]:80-[fd00::2]:8080", "[fd00::1]:80-[fd00::2]:8080"),
        ("80-[::1]:8080", "80-[::1]:8080"),
        ("65535-10.0.0.2:1", "65535-10.0.0.2:1"),
        ("udp:53-10.0.0.2:53", "udp 53-10.0.0.2:53"),
        ("mysql:3306-10.0.0.2:3306,80-10.0.0.2:80", "mysql 3306-10.0.0.2:3306 80-10.0.0.2:80"),
        ("my-own_2:10.0.0.1:80-10.0.0.2:80", "my-own_2 10.0.0.1:80-10.0.0.2:80"),
        ("udp:[fd00::1]:53-[fd00::2]:53", "udp [fd00::1]:53-[fd00::2]:53"),
        ("udp: 53-10.0.0.2:53", "udp 53-10.0.0.2:53"),
        ("./libx.so:80-10.0.0.2:80", "./libx.so 80-10.0.0.2:80"),
        ("../a-b/libx-1.so:10.0.0.1:80-10.0.0.2:80", "../a-b/libx-1.so 10.0.0.1:80-10.0.0.2:80"),
        ("/opt/m/libx.so:[fd00::1]:80-[fd00::2]:80", "/opt/m/libx.so [fd00::1]:80-[fd00::2]:80"),
        ("modules/libx.so:80-10.0.0.2:80", "modules/libx.so 80-10.0.0.2:80"),
    ] {
        let maps = maps(text).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(maps.iter().map(map_text).collect::<Vec<_>>().join(" "), expected);
    }
}

#[test]
fn link_layer_addresses_are_read() {
    let (source, next_hop) = ("00:11:22:33:44:5f", "02:00:00:ab:cd:ef");
    for (text, map, source, next_hop) in [
        ("80@00:11:22:33:44:5f-10.0.0.2:8080@02:00:00:AB:CD:EF", "80-10.0.0.2:8080", Some(source), Some(next_hop)),
        // Any character between the digits, as in the C programs.
        (
            "10.0.0.1:80@00-11-22-33-44-5f-10.0.0.2:80@02.00.00.ab.cd.ef",
            "10.0.0.1:80-10.0.0.2:80",
            Some(source),
            Some(next_hop),
        ),
        ("80-10.0.0.2:80@02:00:00:ab:cd:ef", "80-10.0.0.2:80", None, Some(next_hop)),
        ("80 @00:11:22:33:44:5f - 10.0.0.2:80", "80-10.0.0.2:80", Some(source), None),
        ("udp:[fd00::1]:53-[fd00::2]:53@02:00:00:ab:cd:ef", "udp [fd00::1]:53-[fd00::2]:53", None, Some(next_hop)),
    ] {
        let maps = maps(text).unwrap_or_else(|e| panic!("{e}"));
        let read = [maps[0].source_mac, maps[0].next_hop_mac].map(|mac| mac.map(|mac| mac.to_string()));
        assert_eq!((map_text(&maps[0]).as_str(), [read[0].as_deref(), read[1].as_deref()]), (map, [source, next_hop]));
    }
}

/// Each with the part that is marked and a word of the reason.
#[test]
fn mistakes_in_maps_are_marked() {
    for (text, marked, reason) in [
        ("", "", "nothing here"),
        ("80", "80", "two sides"),
        ("80:10.0.0.2:80", "80:10.0.0.2:80", "two sides"),
        ("80-10.0.0.2", "10.0.0.2", "port is missing"),
        ("80-10.0.0.2:", "", "port is missing"),
        ("80-8080", "8080", "address of the target is missing"),
        ("80-:8080", "", "address is missing"),
        ("-10.0.0.2:80", "-10.0.0.2:80", "online server is missing"),
        ("0-10.0.0.2:80", "0", "1 to 65535"),
        ("80-10.0.0.2:65536", "65536", "1 to 65535"),
        ("80-10.0.0.2:80x", "80x", "1 to 65535"),
        ("80-10.0.0.256:80", "10.0.0.256", "not an IPv4 address"),
        ("80-test.example:80", "test.example", "names are not looked up"),
        ("80-xxx.xxx.xxx.148:110", "xxx.xxx.xxx.148", "names are not looked up"),
        ("80-10.0.0.2:80,,81-10.0.0.2:81", "", "nothing here"),
        ("80-10.0.0.2:80,81-10.0.0.2", "10.0.0.2", "port is missing"),
        ("80-fd00::2:80", "fd00::2:80", "brackets"),
        ("80-[fd00::2:80", "[fd00::2:80", "`]` is missing"),
        ("80-[fd00::2]", "[fd00::2]", "port is missing"),
        ("80-[fd00::2]80", "80", "`:` and the port"),
        ("80-[10.0.0.2]:80", "[10.0.0.2]", "not an IPv6 address"),
        ("80\u{2013}10.0.0.2:80", "\u{2013}", "only looks like `-`"),
        ("80-10.0.0.2：80", "：", "only looks like `:`"),
        ("80-0.0.0.0:80", "0.0.0.0:80", "one host"),
        ("80-224.0.0.1:80", "224.0.0.1:80", "one host"),
        ("80@00:11:22:33:44-10.0.0.2:80", "00:11:22:33:44-10", "not a MAC address"),
        ("80@00:11:22:33:44:5g-10.0.0.2:80", "00:11:22:33:44:5g", "not a MAC address"),
        ("80@00:11:22:33:44:55:66-10.0.0.2:80", ":66-10.0.0.2:80", "expected behind the MAC address"),
        ("80@00:11:22:33:44:55", "", "expected behind the MAC address"),
        ("80-10.0.0.2:80@00:11:22:33:44:556", "00:11:22:33:44:556", "not a MAC address"),
        ("80-10.0.0.2:80@00:11:22:33:44", "00:11:22:33:44", "not a MAC address"),
        ("80-10.0.0.2:80@", "", "not a MAC address"),
        ("80-10.0.0.2:80@测试", "测试", "not a MAC address"),
        ("80-10.0.0.2:80@01:00:5e:00:00:01", "01:00:5e:00:00:01", "of one interface"),
        ("80@00:00:00:00:00:00-10.0.0.2:80", "00:00:00:00:00:00", "of one interface"),
        ("@00:11:22:33:44:55-10.0.0.2:80", "@00:11:22:33:44:55-10.0.0.2:80", "online server is missing"),
        ("udp:53", "53", "two sides"),
        ("udp:", "", "two sides"),
        ("udp:-10.0.0.2:53", "-10.0.0.2:53", "online server is missing"),
        ("udp:53-10.0.0.2", "10.0.0.2", "port is missing"),
        ("UDP:53-10.0.0.2:53", "UDP", "not the name of a module"),
        ("80-10.0.0.2:80,udp:x-10.0.0.2:53", "x", "1 to 65535"),
        ("./libx.so-10.0.0.2", "./libx.so-10.0.0.2", "behind the file"),
        ("fd00::1:80-[fd00::2]:80", "fd00::1:80", "brackets"),
        ("test.example:80-10.0.0.2:80", "test.example", "names are not looked up"),
        ("online-10.0.0.2:80", "online", "1 to 65535"),
        ("80-10.0.0.0/24:80", "10.0.0.0/24", "names are not looked up"),
        ("80-测试服务器IP 地址:80", "测试服务器IP 地址", "names are not looked up"),
    ] {
        let e = maps(text).expect_err(text);
        assert_eq!((&text[e.place.clone()], e.text.as_str()), (marked, text), "{e}");
        assert!(e.reason.contains(reason), "{e}");
    }
}

#[test]
fn the_message_points_at_the_place() {
    let message = maps("80-10.0.0.2:80,81-10.0.0.2").unwrap_err().to_string();
    let expected = "in -x (--map): the port is missing\n    \
        80-10.0.0.2:80,81-10.0.0.2\n    \
        \u{20}                 ^^^^^^^^\n\
        it is written like this: -x 80-10.0.0.2:8080 or -x 'udp:53-10.0.0.2:53,[fd00::1]:80-[fd00::2]:8080'";
    assert_eq!(message, expected);
}

/// Each with how many addresses there are, the first, and the last.
#[test]
fn sources_are_read() {
    for (text, count, first, last) in [
        ("10.1.1.7", 1, "10.1.1.7", "10.1.1.7"),
        ("10.1.1.x", 254, "10.1.1.1", "10.1.1.254"),
        ("10.1.1.X", 254, "10.1.1.1", "10.1.1.254"),
        ("10.1.1.7,10.1.1.9", 2, "10.1.1.7", "10.1.1.9"),
        ("10.1.1.9, 10.1.1.7", 2, "10.1.1.9", "10.1.1.7"),
        ("10.1.1.x,10.1.1.7,10.1.2.1", 255, "10.1.1.1", "10.1.2.1"),
        ("10.1.0.0/24", 254, "10.1.0.1", "10.1.0.254"),
        ("10.1.0.77/24", 254, "10.1.0.1", "10.1.0.254"),
        ("10.1.0.0/16", 65_534, "10.1.0.1", "10.1.255.254"),
        ("10.1.0.6/31", 2, "10.1.0.6", "10.1.0.7"),
        ("10.1.0.6/32", 1, "10.1.0.6", "10.1.0.6"),
        ("10.1.0.250-10.1.1.5", 12, "10.1.0.250", "10.1.1.5"),
        ("fd00::10-fd00::1f", 16, "fd00::10", "fd00::1f"),
        ("fd00::/112", 65_535, "fd00::1", "fd00::ffff"),
        ("fd00::7/128", 1, "fd00::7", "fd00::7"),
        ("[fd00::7]", 1, "fd00::7", "fd00::7"),
    ] {
        let addresses = sources(text).unwrap_or_else(|e| panic!("{e}"));
        let ends = (addresses[0].to_string(), addresses[addresses.len() - 1].to_string());
        assert_eq!((addresses.len(), ends.0.as_str(), ends.1.as_str()), (count, first, last), "{text}");
    }
}

#[test]
fn mistakes_in_sources_are_marked() {
    for (text, marked, reason) in [
        ("", "", "nothing here"),
        ("10.1.1", "10.1.1", "not an IPv4 address"),
        ("10.1.x", "10.1.x", "last place"),
        ("10.x.1.1", "10.x.1.1", "names are not looked up"),
        ("10.1.1.*", "*", "write `x`"),
        ("10.1.0.0/33", "33", "0 to 32"),
        ("10.1.0.0/", "", "0 to 32"),
        ("fd00::/129", "129", "0 to 128"),
        ("10.0.0.0/8", "10.0.0.0/8", "more than 65536"),
        ("::/0", "::/0", "more than 65536"),
        ("10.9.0.0/16,10.8.0.0/16", "10.8.0.0/16", "more than 65536"),
        ("10.1.1.9-10.1.1.7", "10.1.1.9-10.1.1.7", "before the first"),
        ("10.1.1.9-fd00::1", "fd00::1", "one family"),
        ("10.1.1.9-", "", "address is missing"),
        ("0.0.0.0", "0.0.0.0", "cannot be the address"),
        ("239.0.0.1-239.0.0.3", "239.0.0.1-239.0.0.3", "cannot be the address"),
        ("192.168.56.x\u{2014}", "\u{2014}", "only looks like `-`"),
    ] {
        let e = sources(text).expect_err(text);
        assert_eq!(&text[e.place.clone()], marked, "{e}");
        assert!(e.reason.contains(reason), "{e}");
    }
}

#[test]
fn intercepts_are_read() {
    for (text, expected) in [
        ("10.0.0.3", "10.0.0.3:36524"),
        ("10.0.0.3:36525", "10.0.0.3:36525"),
        ("10.0.0.3:1, 10.0.0.4:2", "10.0.0.3:1 10.0.0.4:2"),
        ("fd00::3", "[fd00::3]:36524"),
        ("[fd00::3]", "[fd00::3]:36524"),
        ("[fd00::3]:99,10.0.0.3", "[fd00::3]:99 10.0.0.3:36524"),
    ] {
        let list = intercepts(text, 36_524).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "), expected);
    }
    for (text, marked, reason) in [
        ("", "", "nothing here"),
        ("36524", "36524", "not an IPv4 address"),
        ("10.0.0.3:0", "0", "1 to 65535"),
        ("assistant:36524", "assistant", "names are not looked up"),
        ("10.0.0.3,10.0.0.3:36524", "10.0.0.3:36524", "already"),
        ("0.0.0.0", "0.0.0.0", "one host"),
        ("[fd00::3]x", "x", "`:` and the port"),
    ] {
        let e = intercepts(text, 36_524).expect_err(text);
        assert_eq!(&text[e.place.clone()], marked, "{e}");
        assert!(e.reason.contains(reason), "{e}");
    }
    let many = |n: u16| (0..n).map(|i| format!("10.0.0.3:{}", 36_524 + i)).collect::<Vec<_>>().join(",");
    assert_eq!(intercepts(&many(256), 1).unwrap().len(), 256);
    assert!(intercepts(&many(257), 1).unwrap_err().reason.contains("more than 256"));
}

#[test]
fn rates_are_read() {
    for (text, expected) in [
        ("5000", Rate::Count(5000)),
        ("5000/s", Rate::Count(5000)),
        ("1B", Rate::Bytes(1)),
        ("64kB", Rate::Bytes(64_000)),
        ("64KB/s", Rate::Bytes(64_000)),
        (" 8 MB /s ", Rate::Bytes(8_000_000)),
        ("2GB", Rate::Bytes(2_000_000_000)),
    ] {
        assert_eq!(rate(text).unwrap_or_else(|e| panic!("{e}")), expected, "{text}");
    }
    for (text, marked, reason) in [
        ("", "", "a number"),
        ("fast", "fast", "a number"),
        ("-1", "-1", "a number"),
        ("0", "0", "at least 1"),
        ("0MB", "0", "at least 1"),
        ("8Mbit", "Mbit", "one of B, kB"),
        ("1.5MB", ".5MB", "one of B, kB"),
        ("18446744073709551616", "18446744073709551616", "more than"),
        ("18446744073709551615kB", "18446744073709551615", "more than"),
    ] {
        let e = rate(text).expect_err(text);
        assert_eq!(&text[e.place.clone()], marked, "{e}");
        assert!(e.reason.contains(reason), "{e}");
    }
}
