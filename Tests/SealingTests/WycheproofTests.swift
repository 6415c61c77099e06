import Basics
import CSodium
import Foundation
import Testing

/// XChaCha20-Poly1305 as libsodium does it here, against Google's Wycheproof vectors.
struct WycheproofTests {
    private struct File: Decodable {
        struct Group: Decodable { var ivSize: Int, tests: [Case] }
        struct Case: Decodable { var tcId: Int, key: String, iv: String, aad: String, msg: String, ct: String, tag: String, result: String }
        var numberOfTests: Int
        var testGroups: [Group]
    }
    private static let path: String = {
        let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
        let shared = ProcessInfo.processInfo.environment["COFFER_SHARED"] ?? root.appendingPathComponent("../shared").path
        return shared + "/data/wycheproof/xchacha20_poly1305_test.json"
    }()
    private static var isPresent: Bool { FileManager.default.fileExists(atPath: path) }

    @Test("Wycheproof's XChaCha20-Poly1305 vectors open or are refused as they say", .enabled(if: isPresent, "COFFER_SHARED has no Wycheproof vectors"))
    func vectors() throws {
        let file = try JSONDecoder().decode(File.self, from: Data(contentsOf: URL(fileURLWithPath: Self.path)))
        var seen = 0
        for group in file.testGroups {
            for test in group.tests {
                seen += 1
                let key = try #require(Bytes(hex: test.key)), nonce = try #require(Bytes(hex: test.iv)), data = try #require(Bytes(hex: test.aad))
                let message = try #require(Bytes(hex: test.msg)), sealed = try #require(Bytes(hex: test.ct)) + #require(Bytes(hex: test.tag))
                let opened = open(sealed, key: key, nonce: nonce, data: data)
                if test.result == "valid" {
                    #expect(opened == message, "case \(test.tcId)")
                    #expect(seal(message, key: key, nonce: nonce, data: data) == sealed, "case \(test.tcId)")
                } else {
                    #expect(opened == nil, "case \(test.tcId)")
                }
            }
        }
        #expect(seen == file.numberOfTests && seen > 0)
    }

    private func seal(_ message: Bytes, key: Bytes, nonce: Bytes, data: Bytes) -> Bytes? {
        guard key.count == 32, nonce.count == 24 else { return nil }
        var out = Bytes(repeating: 0, count: message.count + 16)
        crypto_aead_xchacha20poly1305_ietf_encrypt(&out, nil, message, UInt64(message.count), data, UInt64(data.count), nil, nonce, key)
        return out
    }
    private func open(_ sealed: Bytes, key: Bytes, nonce: Bytes, data: Bytes) -> Bytes? {
        guard key.count == 32, nonce.count == 24, sealed.count >= 16 else { return nil }
        var out = Bytes(repeating: 0, count: sealed.count)
        let status = crypto_aead_xchacha20poly1305_ietf_decrypt(&out, nil, nil, sealed, UInt64(sealed.count), data, UInt64(data.count), nonce, key)
        return status == 0 ? Bytes(out.prefix(sealed.count - 16)) : nil
    }
}
