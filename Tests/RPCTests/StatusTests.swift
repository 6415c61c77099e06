import NIOCore
import RPC
import Testing

@Suite struct StatusTests {
    @Test("a grpc-message keeps printable ASCII and escapes the rest", arguments: [
        ("etcdserver: key is not provided", "etcdserver: key is not provided"),
        ("100%", "100%25"), ("ä\n", "%C3%A4%0A"), ("", ""),
    ])
    func encodes(plain: String, encoded: String) {
        #expect(Status.percentEncoded(plain) == encoded)
        #expect(Status.percentDecoded(encoded) == plain)
    }

    @Test("what is no escape is kept as it is")
    func keepsMalformedEscapes() {
        #expect(Status.percentDecoded("50%") == "50%")
        #expect(Status.percentDecoded("%zz%4") == "%zz%4")
    }

    @Test("a timeout is digits and a unit", arguments: [
        ("5S", TimeAmount.seconds(5)), ("100m", .milliseconds(100)), ("7u", .microseconds(7)), ("1n", .nanoseconds(1)),
        ("2M", .minutes(2)), ("1H", .hours(1)), ("0S", .zero),
    ])
    func parsesTimeouts(text: String, amount: TimeAmount) {
        #expect(Timeout.parse(text) == amount)
        #expect(Timeout.parse(Timeout.format(amount)) == amount)
    }

    @Test("what is no timeout is none", arguments: ["", "S", "5", "5s", "-5S", "123456789S", "5SS", "٥S"])
    func refusesTimeouts(text: String) { #expect(Timeout.parse(text) == nil) }

    @Test("a timeout longer than the clock counts is cut to it")
    func cutsTimeouts() { #expect(Timeout.parse("99999999H") == .nanoseconds(.max)) }
}
