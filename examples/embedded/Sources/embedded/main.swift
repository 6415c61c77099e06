import Coffer

// A secrets store inside this process: opened, written, closed; opened again, everything is there.
let (directory, keyFile) = (CommandLine.arguments[1] + "/data", CommandLine.arguments[1] + "/seal.key")

var coffer = try await Coffer.open(directory, unlock: .keyFile(keyFile))
try await coffer.put("db/password", try Coffer.Secret("canary-entry-5f0c1d"))
try await coffer.createNamespace("canary-namespace-77")
try await coffer.putSecret("login", in: "canary-namespace-77", ["password": try Coffer.Secret("canary-secret-90ab3e")])
await coffer.close()

coffer = try await Coffer.open(directory, unlock: .keyFile(keyFile))
let entry = try await coffer.get("db/password")?.value.revealedText()
let login = try await coffer.secret("login", in: "canary-namespace-77")?["password"]?.revealedText()
print("after a restart: an entry of \(entry?.count ?? 0) characters, a secret of \(login?.count ?? 0)")
guard entry == "canary-entry-5f0c1d", login == "canary-secret-90ab3e" else { fatalError("something is not there") }

// A new key for the namespace: its values are sealed again in the background, then the old key is destroyed.
try await coffer.rotate(.dataKey, ofNamespace: "canary-namespace-77")
await coffer.rotationsSettled()
for domain in await coffer.keyStatus() { print("keys of \(domain.name): generation \(domain.generation), \(domain.remaining) values under older ones") }
await coffer.close()
