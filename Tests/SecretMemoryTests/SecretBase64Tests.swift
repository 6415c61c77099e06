import SecretMemory
import Testing

struct SecretBase64Tests {
    private func decoded(_ text: String) throws -> [UInt8] {
        try SecretValue(base64: Array(text.utf8)).withUnsafeBytes { unsafe Array($0) }
    }
    private func encoded(_ bytes: [UInt8]) throws -> String {
        var text: [UInt8] = []
        try SecretValue(copying: bytes).appendBase64(to: &text)
        return String(decoding: text, as: UTF8.self)
    }

    @Test("the vectors of RFC 4648 §10 decode and encode", arguments: [
        ("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE="), ("foobar", "Zm9vYmFy"),
    ])
    func vectors(plain: String, text: String) throws {
        #expect(try decoded(text) == Array(plain.utf8))
        #expect(try encoded(Array(plain.utf8)) == text)
    }

    @Test("every byte value survives the way there and back, whatever the length")
    func roundTrip() throws {
        for count in 0...300 {
            let bytes = (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ count) }
            #expect(try decoded(try encoded(bytes)) == bytes)
        }
    }

    @Test("line breaks within the text are skipped, as Kubernetes does")
    func lineBreaks() throws {
        #expect(try decoded("Zm9v\r\nYmFy\n") == Array("foobar".utf8))
    }

    @Test("what is no padded standard base64 is refused", arguments: [
        "Z", "Zg", "Zg=", "Zg===", "Zm9v!", "Zm 9v", "Zh==", "_-8=", "Zg==Zg==", "=", "Zm9vYg==\0",
    ])
    func refused(text: String) {
        #expect(throws: MalformedBase64()) { try decoded(text) }
    }

    @Test("text that lies in pieces decodes like text in one piece")
    func piecewise() throws {
        let text = Array("Zm9vYmFy".utf8)
        let value = try SecretValue(base64: text.lazy.map { $0 })
        #expect(try value == SecretValue(copying: Array("foobar".utf8)))
    }

    @Test("appending leaves what stands before untouched")
    func appends() throws {
        var text: [UInt8] = Array("data: ".utf8)
        try SecretValue(copying: Array("foo".utf8)).appendBase64(to: &text)
        #expect(text == Array("data: Zm9v".utf8))
    }
}
